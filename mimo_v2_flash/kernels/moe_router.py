"""Sigmoid top-k router: choose A of E experts per token, weighted by their scores.

Source: DeepSeek-V3, arXiv:2412.19437, equations 12 to 16 (`noaux_tc` with one group);
transformers `models/mimo_v2_flash` (`MiMoV2FlashTopkRouter`). MiMo: E = 256, A = 8, scaling 1.
"""

import numpy as np

from . import ops
from .axes import checked

__all__ = ["moe_router", "router_scores"]

LARGEST = np.finfo(np.float32).max


@checked
def moe_router(x_ND, w_router_ED, bias_E, *, experts_per_token: int, scaling: float):
    """Return (weight_NA, expert_NA): the chosen experts, best first, and their weights.

        score = sigmoid(x w);  chosen = top A of (score + bias)
        weight = scaling x score / (sum of chosen scores + 1e-20)

    The bias balances the load: it changes which experts are chosen, never their weights. All is
    float32 whatever the model's dtype: bfloat16 scores would choose other experts at near-ties.

    Where a score or bias is NaN or infinite, which a comparison would order silently, the token's
    weights are NaN: its output and logits show it, and no other token's do.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Normalised hidden states.
    w_router_ED : array
        The router's weight.
    bias_E : array
        Selection bias of each expert.
    experts_per_token : int
        Experts that a token chooses, A.
    scaling : float
        Factor on the weights.

    Raises
    ------
    ValueError
        If `experts_per_token` is not in 1..E.
    """
    E = w_router_ED.shape[0]
    if not 1 <= experts_per_token <= E:
        raise ValueError(f"moe_router: experts_per_token {experts_per_token} is not in 1..{E}")
    score_NE = router_scores(x_ND, w_router_ED)
    biased_NE = score_NE + bias_E.astype(np.float32)
    is_finite_NE = np.abs(biased_NE) <= LARGEST
    _, expert_NA = ops.top_k(np.where(is_finite_NE, biased_NE, np.float32(0)), experts_per_token)
    score_NA = np.take_along_axis(score_NE, expert_NA, axis=-1)
    total_N1 = np.sum(score_NA, axis=-1, keepdims=True) + np.float32(1e-20)
    weight_NA = score_NA / total_N1 * np.float32(scaling)
    is_finite_N1 = np.min(is_finite_NE.astype(np.float32), axis=-1, keepdims=True) > 0
    return np.where(is_finite_N1, weight_NA, np.float32(np.nan)), expert_NA


@checked
def router_scores(x_ND, w_router_ED):
    """Return `score_NE`, float32: sigmoid(x w), without the bias."""
    x_ND, w_router_ED = x_ND.astype(np.float32), w_router_ED.astype(np.float32)
    return ops.sigmoid(ops.matmul(x_ND, w_router_ED))
