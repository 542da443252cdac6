"""Eager-mode attention: compiled calls, and where numba cannot be used one KV head at a time.

Host code, not a kernel: loops, threads and blocks follow from sizes. Static mode attends with all
heads at once (`attend`). The kernels say what is computed; `cpu/decode_attention.py` computes it
for sequences of up to `FEW_TOKENS` tokens, `cpu/prefill_attention.py` for others.
"""

from functools import cache, partial
from typing import Any

import numpy as np

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.cpu.kv_codes import decode
from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.cpu.thread_pool import parallel_for
from mimo_v2_flash.kernels.attention import KVSegment
from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.attention_swa import attention_swa
from mimo_v2_flash.kernels.axes import checked
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS

__all__ = ["FEW_TOKENS", "attend", "attend_per_kv_head", "eager_attend"]

FEW_TOKENS = 2 * (1 + MAX_DRAFT_TOKENS)  # of a sequence: what an MTP head reads after a step
BLOCK_SCORES = 1 << 19  # scores of a head's block: 2 MiB, about one core's cache
FEW_SCORES = 1 << 17  # below, threads cost more than they save
SHORTEST_BLOCK = 16  # queries

_checked_once = cache(checked)  # a check remembers the shapes that it has accepted


def attend(
    q_BTHQ: Any, active: KVSegment, prior: KVSegment, sink_H: Any, *, window: int, query_block: int
) -> Any:
    """Return `y_BTHC` of `attention_full` if there is no window, else of `attention_swa`.

    Parameters
    ----------
    q_BTHQ : array, float32 or bfloat16
        Queries, rotated.
    active, prior : KVSegment
        Keys and values of the step, and those of the cache.
    sink_H : array
        Sink of each query head, a logit.
    window : int
        Keys that a token attends to; `NO_WINDOW` in full layers.
    query_block : int
        Tokens of a block of queries.
    """
    kernel = attention_full if window == NO_WINDOW else partial(attention_swa, window=window)
    return kernel(
        q_BTHQ,
        active.k_BSKQ,
        active.v_BSKC,
        active.position_BS,
        prior.k_BSKQ,
        prior.v_BSKC,
        prior.position_BS,
        sink_H,
        query_block=query_block,
    )


def eager_attend(
    q_BTHQ: Any, active: KVSegment, prior: KVSegment, sink_H: Any, *, window: int, query_block: int
) -> Any:
    """Return `y_BTHC` as `attend` does, but weights and scores are float32 whatever q is.

    Parameters
    ----------
    q_BTHQ : array, float32 or bfloat16
        Queries, rotated.
    active, prior : KVSegment
        Keys and values of the step, and those of the cache.
    sink_H : array
        Sink of each query head, a logit.
    window : int
        Keys that a token attends to; `NO_WINDOW` in full layers.
    query_block : int
        Tokens of a block of queries.
    """
    wide_BTHQ = q_BTHQ.astype(np.float32, copy=False)
    attention = _compiled(q_BTHQ, active, prior) if window >= 1 else None
    if attention is None:
        step = wide_BTHQ, _decoded(active), _decoded(prior), sink_H
        y_BTHC = attend_per_kv_head(*step, window=window, query_block=query_block)
    else:
        y_BTHC = attention(wide_BTHQ, *active, *prior, sink_H, window=window)
    return y_BTHC.astype(q_BTHQ.dtype, copy=False)


def _decoded(segment: KVSegment) -> KVSegment:
    return segment._replace(k_BSKQ=decode(segment.k_BSKQ), v_BSKC=decode(segment.v_BSKC))


def _compiled(q_BTHQ: Any, active: KVSegment, prior: KVSegment) -> Any:
    """Return the compiled attention of so many tokens, or None if it cannot read these tensors."""
    (T, H), K = q_BTHQ.shape[1:3], active.k_BSKQ.shape[2]
    name = "decode_attention" if T <= FEW_TOKENS else "prefill_attention"
    loops = compiled_module(name) if H % K == 0 else None
    keys, parts = compiled_module("visible_keys"), (active.k_BSKQ, active.v_BSKC, *prior[:2])
    if loops is None or keys is None or len({part.dtype for part in parts}) > 1:
        return None
    are_readable = all(keys.is_readable(part) for part in prior[:2])
    return _checked_once(getattr(loops, name)) if are_readable else None


def attend_per_kv_head(
    q_BTHQ: Any, active: KVSegment, prior: KVSegment, sink_H: Any, *, window: int, query_block: int
) -> Any:
    """Return `y_BTHC` as `attend` does, one KV head at a time, in blocks of up to `query_block`.

    Parameters
    ----------
    q_BTHQ : array, float32 or bfloat16
        Queries, rotated.
    active, prior : KVSegment
        Keys and values of the step, and those of the cache.
    sink_H : array
        Sink of each query head, a logit.
    window : int
        Keys that a token attends to; `NO_WINDOW` in full layers.
    query_block : int
        The most tokens of a block of queries.
    """
    B, T, H, _ = q_BTHQ.shape
    K, C = active.v_BSKC.shape[2:]
    num_keys = min(T + prior.k_BSKQ.shape[1], window + query_block)
    if B * T * H * num_keys < FEW_SCORES:
        return attend(q_BTHQ, active, prior, sink_H, window=window, query_block=query_block)
    G = H // K
    fitting = BLOCK_SCORES // (B * G * num_keys)
    block = min(query_block, max(SHORTEST_BLOCK, fitting))
    y_BTHC = np.empty((B, T, H, C), q_BTHQ.dtype)

    def attend_one_head(head: int) -> None:
        queries = slice(head * G, (head + 1) * G)
        k_BT1Q, v_BT1C, position_BT = _one_head(active, head)
        # Widened here, once, and not in every block of queries.
        widened = KVSegment(_widened(k_BT1Q), _widened(v_BT1C), position_BT)
        y_BTHC[:, :, queries] = attend(
            q_BTHQ[:, :, queries],
            widened,
            _one_head(prior, head),
            sink_H[queries],
            window=window,
            query_block=block,
        )

    parallel_for(attend_one_head, K)
    return y_BTHC


def _one_head(segment: KVSegment, head: int) -> KVSegment:
    """Return a segment of one KV head, as views."""
    keys = slice(head, head + 1)
    return KVSegment(segment.k_BSKQ[:, :, keys], segment.v_BSKC[:, :, keys], segment.position_BS)


def _widened(part: Any) -> Any:
    return part.astype(np.float32, copy=False)
