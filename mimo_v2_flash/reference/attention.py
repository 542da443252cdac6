"""Reference attention: a loop over every query head of every token.

    y = sum over visible j of exp(l_j) v_j / (exp(sink) + sum over visible j of exp(l_j))
    l_j = q . k_j / sqrt(Q)

Source: arXiv:1706.03762, equation 1; GQA, arXiv:2305.13245; the sink as in transformers
`models/mimo_v2_flash` (`eager_attention_forward`).
"""

import math
from typing import Any, NamedTuple

import numpy as np

__all__ = ["attention"]


class Key(NamedTuple):
    """The position, keys and values of one token."""

    position: int
    k_KQ: Any
    v_KC: Any


def attention(
    q_BTHQ,
    k_BTKQ,
    v_BTKC,
    position_BT,
    prior_k_BSKQ,
    prior_v_BSKC,
    prior_position_BS,
    sink_H,
    *,
    window: float,
):
    """Return `y_BTHC`: attention of each token to itself and the `window` - 1 positions before it.

    The tokens of a row replace the cached ones from the row's first position on. A token at
    position -1 is padding: it attends to no token and no token attends to it.
    """
    B, T, H, _ = q_BTHQ.shape
    K, C = v_BTKC.shape[2:]
    y_BTHC = np.zeros((B, T, H, C))
    for b in range(B):
        prior = _keys(prior_position_BS[b], prior_k_BSKQ[b], prior_v_BSKC[b])
        active = _keys(position_BT[b], k_BTKQ[b], v_BTKC[b])
        keys = [key for key in prior if key.position < position_BT[b, 0]] + active
        for t, h in np.ndindex(T, H):
            now = int(position_BT[b, t])
            visible = [key for key in keys if now - window < key.position <= now]
            kv_head = h // (H // K)
            y_BTHC[b, t, h] = _average(
                q_BTHQ[b, t, h],
                [(key.k_KQ[kv_head], key.v_KC[kv_head]) for key in visible],
                float(sink_H[h]),
                zero=np.zeros(C),
            )
    return y_BTHC


def _keys(positions, k_SKQ, v_SKC) -> list[Key]:
    return [
        Key(int(position), k_KQ.astype(np.float64), v_KC.astype(np.float64))
        for position, k_KQ, v_KC in zip(positions, k_SKQ, v_SKC, strict=True)
        if position >= 0
    ]


def _average(q, keys_and_values, sink: float, *, zero):
    q = q.astype(np.float64)
    logits = [float(q @ k) / math.sqrt(len(q)) for k, _ in keys_and_values]
    peak = max([sink, *logits])
    total = math.exp(sink - peak) + sum(math.exp(logit - peak) for logit in logits)
    return sum(
        (
            math.exp(logit - peak) / total * v
            for logit, (_, v) in zip(logits, keys_and_values, strict=True)
        ),
        start=zero,
    )
