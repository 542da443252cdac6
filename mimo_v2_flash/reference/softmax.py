"""Reference softmax over the visible keys and one attention sink per query head.

Source: transformers `models/mimo_v2_flash` (`eager_attention_forward`): the sink joins the scores
as one more logit, unscaled, and its column is dropped from the output.
"""

import math

import numpy as np

__all__ = ["softmax"]


def softmax(score_BKGTS, visible_BTS, sink_H):
    """Return `weight_BKGTS`; the weight of a key that is not visible is 0.

    weight_s = exp(score_s) / (exp(sink) + sum over visible r of exp(score_r))
    """
    B, K, G, T, S = score_BKGTS.shape
    weight_BKGTS = np.zeros((B, K, G, T, S))
    for b, k, g, t in np.ndindex(B, K, G, T):
        sink = float(sink_H[k * G + g])
        visible = {s: float(score_BKGTS[b, k, g, t, s]) for s in range(S) if visible_BTS[b, t, s]}
        peak = max([sink, *visible.values()])
        total = math.exp(sink - peak) + sum(math.exp(score - peak) for score in visible.values())
        for s, score in visible.items():
            weight_BKGTS[b, k, g, t, s] = math.exp(score - peak) / total
    return weight_BKGTS
