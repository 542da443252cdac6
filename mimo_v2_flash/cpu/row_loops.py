"""Compiled loops over the tokens of a step: RMSNorm, rotation, router, SwiGLU, each for itself.

Source: `kernels/rmsnorm.py`, `rope_partial.py`, `moe_router.py` and `ops.py` are the plain
statements; NumPy takes ten calls where a decode step of one token has a microsecond of work.
"""

import numpy as np
from numba import float32, int32, int64, types

from .code_cache import compile_now
from .exponential import exponential, silu
from .loops import OUTPUT, in_order, input_type, summed

__all__ = ["norm_rows", "rotate_rows", "route_rows", "swiglu_rows"]

ZERO, ONE, TINY = map(np.float32, (0, 1, 1e-20))
LARGEST, NAN = np.finfo(np.float32).max, np.float32(np.nan)


@summed
def norm_rows(x_ND, weight_D, epsilon, y_ND):
    """Fill `y_ND` with the rows of x at unit root mean square, times the weight."""
    N, D = x_ND.shape
    for n in range(N):
        power = ZERO
        for d in range(D):
            power += x_ND[n, d] * x_ND[n, d]
        root = np.sqrt(power / np.float32(D) + epsilon)
        for d in range(D):
            y_ND[n, d] = x_ND[n, d] / root * weight_D[d]


@in_order
def rotate_rows(x_NHQ, position_N, cos_LR, sin_LR, y_NHQ):
    """Fill `y_NHQ` with x, its channels r and r + R rotated by the angles of the positions."""
    (N, H, Q), (L, R) = x_NHQ.shape, cos_LR.shape
    for n in range(N):
        row = min(max(position_N[n], 0), L - 1)
        for h in range(H):
            for r in range(R):
                low, high = x_NHQ[n, h, r], x_NHQ[n, h, R + r]
                y_NHQ[n, h, r] = low * cos_LR[row, r] - high * sin_LR[row, r]
                y_NHQ[n, h, R + r] = high * cos_LR[row, r] + low * sin_LR[row, r]
            for i in range(2 * R, Q):
                y_NHQ[n, h, i] = x_NHQ[n, h, i]


@in_order
def _fill_scores(logit_E, bias_E, score_E, biased_E):
    """Fill scores, and biased ones, zero where they are not finite; return whether all are."""
    is_finite = True
    for e in range(logit_E.size):
        decayed = exponential(-abs(logit_E[e]))
        score_E[e] = (ONE if logit_E[e] >= 0 else decayed) / (ONE + decayed)
        biased_E[e] = score_E[e] + bias_E[e]
        if not abs(biased_E[e]) <= LARGEST:
            is_finite, biased_E[e] = False, ZERO
    return is_finite


@in_order
def route_rows(logit_NE, bias_E, scaling, weight_NA, expert_NA):
    """Fill the experts that tokens choose, best first, and their weights; NaN if one is not finite.

    Of equal scores the lowest index comes first.
    """
    (N, E), A = logit_NE.shape, expert_NA.shape[1]
    score_E, biased_E = np.empty(E, np.float32), np.empty(E, np.float32)
    for n in range(N):
        is_finite, total = _fill_scores(logit_NE[n], bias_E, score_E, biased_E), ZERO
        for a in range(A):
            best = np.argmax(biased_E)
            expert_NA[n, a], biased_E[best] = best, -np.inf
            total += score_E[best]
        for a in range(A):
            weight = score_E[expert_NA[n, a]] / (total + TINY) * scaling
            weight_NA[n, a] = weight if is_finite else NAN


@in_order
def swiglu_rows(gate_NF, up_NF, y_NF, start, stop):
    """Fill rows `start` to `stop` of `y_NF` with silu(gate) x up."""
    for n in range(start, stop):
        for f in range(gate_NF.shape[1]):
            y_NF[n, f] = silu(gate_NF[n, f]) * up_NF[n, f]


X_ND, X_D = input_type(float32), types.Array(float32, 1, "C", readonly=True)
X_NHQ = types.Array(float32, 3, "C", readonly=True)
POSITION_N = types.Array(int32, 1, "C", readonly=True)
compile_now(norm_rows, X_ND, X_D, float32, OUTPUT)
compile_now(rotate_rows, X_NHQ, POSITION_N, X_ND, X_ND, types.Array(float32, 3, "C"))
compile_now(route_rows, X_ND, X_D, float32, OUTPUT, types.Array(int32, 2, "C"))
compile_now(swiglu_rows, X_ND, X_ND, OUTPUT, int64, int64)
