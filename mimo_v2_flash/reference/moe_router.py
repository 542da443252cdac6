"""Reference sigmoid router: a loop over tokens, with a sort instead of a top-k.

Source: DeepSeek-V3, arXiv:2412.19437, equations 12 to 16.
"""

import math

import numpy as np

__all__ = ["moe_router"]


def moe_router(x_ND, w_router_ED, bias_E, *, experts_per_token: int, scaling: float):
    """Return (weight_NA, expert_NA), the best expert first.

        s_e = 1 / (1 + exp(-x . w_e))
        weight_e = scaling s_e / (sum of s over the chosen + 1e-20)

    The experts with the largest s_e + bias_e are chosen, of equal ones the lowest index.
    """
    N, E = len(x_ND), len(w_router_ED)
    weight_NA = np.empty((N, experts_per_token))
    expert_NA = np.empty((N, experts_per_token), np.int32)
    for n in range(N):
        score = [_sigmoid(_dot(x_ND[n], w_router_ED[e])) for e in range(E)]
        ranked = sorted((-(score[e] + float(bias_E[e])), e) for e in range(E))
        chosen = [e for _, e in ranked[:experts_per_token]]
        total = sum(score[e] for e in chosen) + 1e-20
        weight_NA[n] = [scaling * score[e] / total for e in chosen]
        expert_NA[n] = chosen
    return weight_NA, expert_NA


def _dot(x, w) -> float:
    return sum(float(a) * float(b) for a, b in zip(x, w, strict=True))


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0
