"""Masked softmax with an attention sink per query head: a logit that has no value.

Source: arXiv:2309.17453 (attention sinks), in the learned form of transformers
`models/mimo_v2_flash` (`eager_attention_forward`, `s_aux`). MiMo: sliding layers have a learned
sink for each of 64 heads, full layers none.
"""

import numpy as np

from .axes import checked

__all__ = ["NO_SINK", "softmax"]

NO_SINK = -1e30
"""The sink of a head without one, and the score of a masked key: finite, so that a row without a
visible key is zeros instead of NaN."""


@checked
def softmax(score_BKGTS, visible_BTS, sink_H):
    """Return `weight_BKGTS`, zero where a key is not visible.

        weight = exp(score) / (exp(sink) + sum over visible exp(score))

    The sink is not scaled by 1 / sqrt(Q). Masked scores may be anything, NaN included.

    Parameters
    ----------
    score_BKGTS : array, float32
        Scores of each query head of each KV head.
    visible_BTS : array of bool
        Which keys each token sees.
    sink_H : array
        Sink of each query head, a logit; `NO_SINK` leaves it out.
    """
    B, K, G, T, S = score_BKGTS.shape
    visible_B11TS = np.reshape(visible_BTS, (B, 1, 1, T, S))
    # NO_SINK rounded to bfloat16 is below NO_SINK: a row without a visible key would be NaN.
    sink_H = np.maximum(sink_H.astype(np.float32), np.float32(NO_SINK))
    sink_1KG11 = np.reshape(sink_H, (1, K, G, 1, 1))
    score_BKGTS = np.where(visible_B11TS, score_BKGTS, np.float32(NO_SINK))
    peak_BKGT1 = np.maximum(np.max(score_BKGTS, axis=-1, keepdims=True), sink_1KG11)
    power_BKGTS = np.where(visible_B11TS, np.exp(score_BKGTS - peak_BKGT1), np.float32(0))
    total_BKGT1 = np.sum(power_BKGTS, axis=-1, keepdims=True) + np.exp(sink_1KG11 - peak_BKGT1)
    return power_BKGTS / total_BKGT1
