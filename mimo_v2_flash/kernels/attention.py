"""Grouped-query attention of a block of queries over several KV segments, in one softmax.

Full and sliding-window attention share this module. Whether a key is visible follows from
positions alone, so prefill, chunks, decoding, draft verification, padding and ragged batches are
one computation.

Source: GQA, arXiv:2305.13245; transformers `models/mimo_v2_flash` (`eager_attention_forward`);
prior and active keys as in NxD Inference's token generation. MiMo: 64 query heads of Q = 192 over
4 (full) or 8 (sliding) KV heads, values of C = 128.
"""

from typing import Any, NamedTuple

import numpy as np

from . import ops
from .softmax import softmax

__all__ = ["NO_WINDOW", "KVSegment", "attend_block", "attend_in_blocks"]

NO_WINDOW = 1 << 30
"""A window longer than any context: full attention."""


class KVSegment(NamedTuple):
    """A contiguous run of keys and values with their positions; -1 marks an empty slot."""

    k_BSKQ: Any
    v_BSKC: Any
    position_BS: Any


def attend_in_blocks(
    q_BTHQ, active: KVSegment, prior: KVSegment, sink_H, *, window: int, query_block: int
):
    """Return `y_BTHC`: each token's attention to the cache (prior) and to its own step (active).

    Queries are computed in blocks of `query_block`. A block attends to the keys of the block
    itself and of the `window` - 1 tokens before it, prior or active, and to no others: scores
    take query_block x (query_block + window) memory for each head, whatever the length of the
    step. In a row, real tokens come first, at consecutive positions, then padding at -1.

    Parameters
    ----------
    q_BTHQ : array, float32 or bfloat16
        Queries of the step, rotated.
    active, prior : KVSegment
        Keys and values of the step, and those that the cache held before it.
    sink_H : array
        Sink of each query head: a logit, `softmax.NO_SINK` where a layer has none.
    window : int
        Keys that a token attends to, itself included; `NO_WINDOW` in full layers.
    query_block : int
        Tokens of a block of queries.

    Raises
    ------
    ValueError
        If the number of query heads is no multiple of the number of KV heads, or a block or step
        is empty.
    """
    (T, H), K = q_BTHQ.shape[1:3], active.k_BSKQ.shape[2]
    if H % K:
        raise ValueError(f"attention: {H} query heads are no multiple of {K} KV heads")
    if query_block < 1 or T < 1:
        raise ValueError(f"attention: {T} tokens in blocks of query_block {query_block}")
    prior = _before_step(prior, active.position_BS)
    blocks = []
    for start in range(0, T, query_block):
        end = min(start + query_block, T)
        first = max(0, start - window + 1)
        segments = [KVSegment(*(part[:, first:end] for part in active))]
        if prior.k_BSKQ.shape[1] and start < window - 1:
            segments.append(prior)
        q_BnHQ, position_Bn = q_BTHQ[:, start:end], active.position_BS[:, start:end]
        blocks.append(attend_block(q_BnHQ, position_Bn, segments, sink_H, window=window))
    return np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]


def attend_block(q_BTHQ, position_BT, segments: list[KVSegment], sink_H, *, window: int):
    """Return `y_BTHC`: each head's average of the visible values, weighted by the softmax.

        y = softmax([q.k / sqrt(Q) for the keys of every segment], sink) . v

    A key is visible if its slot is not empty, it is not ahead of the query, and it is less than
    `window` behind it. Scores of the segments are concatenated; keys and values are never copied
    together, and KV heads are never repeated: the G query heads of a KV head are rows of one
    matmul. Weights are rounded to the dtype of q, as in transformers, for all segments alike, and
    never to that of the cache. A row without a visible key is zero. Masked keys may hold
    anything, masked values anything finite (0 x NaN is NaN).

    Parameters
    ----------
    q_BTHQ : array, float32 or bfloat16
        Queries, rotated.
    position_BT : array of int32
        Positions of the queries; -1 is padding.
    segments : list of KVSegment
        Keys, values and positions that may be visible.
    sink_H : array
        Sink of each query head, a logit.
    window : int
        Keys that a token attends to, itself included.
    """
    B, T, H, Q = q_BTHQ.shape
    K, C = segments[0].v_BSKC.shape[2:]
    G = H // K
    scaled_BTHQ = (q_BTHQ.astype(np.float32) * np.float32(Q**-0.5)).astype(q_BTHQ.dtype)
    q_BKGTQ = np.transpose(np.reshape(scaled_BTHQ, (B, T, K, G, Q)), (0, 2, 3, 1, 4))
    rows = np.reshape(q_BKGTQ, (B, K, G * T, Q))
    score = _concatenate(
        [ops.matmul(rows, np.transpose(segment.k_BSKQ, (0, 2, 1, 3))) for segment in segments]
    )
    visible_BTS = _concatenate(
        [_visible(position_BT, segment.position_BS, window) for segment in segments]
    )
    weight_BKGTS = softmax(np.reshape(score, (B, K, G, T, -1)), visible_BTS, sink_H)
    if q_BTHQ.dtype != np.float32:
        weight_BKGTS = weight_BKGTS.astype(q_BTHQ.dtype)
    y = _weighted_sum(np.reshape(weight_BKGTS, (B, K, G * T, -1)), segments)
    y_BTKGC = np.transpose(np.reshape(y, (B, K, G, T, C)), (0, 3, 1, 2, 4))
    return np.reshape(y_BTKGC, (B, T, H, C)).astype(q_BTHQ.dtype)


def _before_step(prior: KVSegment, position_BT) -> KVSegment:
    """Return `prior` with empty slots where positions are not before the step: rejected drafts."""
    is_past_BS = prior.position_BS < position_BT[:, :1]
    return prior._replace(position_BS=np.where(is_past_BS, prior.position_BS, -1))


def _visible(position_BT, key_position_BS, window: int):
    key_position_B1S = np.expand_dims(key_position_BS, 1)
    age_BTS = np.expand_dims(position_BT, 2) - key_position_B1S
    return (key_position_B1S >= 0) & (age_BTS >= 0) & (age_BTS < window)


def _concatenate(parts: list[Any]):
    return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _weighted_sum(weight, segments: list[KVSegment]):
    """Return the sum over segments of `weight` [B, K, GT, S] times values, [B, K, GT, C]."""
    start, parts = 0, []
    for segment in segments:
        end = start + segment.v_BSKC.shape[1]
        parts.append(ops.matmul(weight[..., start:end], np.transpose(segment.v_BSKC, (0, 2, 3, 1))))
        start = end
    return sum(parts[1:], start=parts[0])
