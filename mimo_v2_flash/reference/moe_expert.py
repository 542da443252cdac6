"""Reference SwiGLU experts: a loop over tokens.

Source: SwiGLU, arXiv:2002.05202, equation 6.
"""

import math

import numpy as np

__all__ = ["masked_experts", "moe_expert"]


def moe_expert(x_ND, w_gate_FD, w_up_FD, w_down_DF):
    """Return `y_ND`, the output of one expert for each row of x.

        y_d = sum over f of silu(gate_f . x) (up_f . x) down_df

    with silu(z) = z / (1 + exp(-z)).
    """
    y_ND = np.empty(np.shape(x_ND))
    for n, x in enumerate(x_ND):
        pairs = zip(_matvec(w_gate_FD, x), _matvec(w_up_FD, x), strict=True)
        y_ND[n] = _matvec(w_down_DF, [_silu(gate) * up for gate, up in pairs])
    return y_ND


def masked_experts(x_ND, weight_NA, expert_NA, w_gate_eFD, w_up_eFD, w_down_eDF):
    """Return `y_ND`: the weighted sum of the outputs of each token's chosen experts.

    An expert id outside 0..e-1 is skipped.
    """
    y_ND = np.zeros(np.shape(x_ND))
    for (n, a), expert in np.ndenumerate(expert_NA):
        if 0 <= expert < len(w_gate_eFD):
            weights = w_gate_eFD[expert], w_up_eFD[expert], w_down_eDF[expert]
            y_ND[n] += float(weight_NA[n, a]) * moe_expert(x_ND[n : n + 1], *weights)[0]
    return y_ND


def _matvec(w_OI, x) -> list[float]:
    return [sum(float(w) * float(v) for w, v in zip(row, x, strict=True)) for row in w_OI]


def _silu(z: float) -> float:
    return z / (1 + math.exp(-z)) if z > -700 else 0.0
