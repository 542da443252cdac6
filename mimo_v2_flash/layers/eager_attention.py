"""Eager-mode attention: KV heads in parallel on threads, in query blocks that fit a core's cache.

Host code, not a kernel: threads and blocks follow from sizes. Static mode attends with all heads at
once (`attend`); both modes compute with the same kernels.
"""

from functools import partial
from typing import Any

import numpy as np

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.cpu.thread_pool import parallel_for
from mimo_v2_flash.kernels.attention import KVSegment
from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.attention_swa import attention_swa

__all__ = ["attend", "attend_per_kv_head"]

BLOCK_SCORES = 1 << 19  # scores of a head's block: 2 MiB, about one core's cache
FEW_SCORES = 1 << 17  # below, threads cost more than they save
SHORTEST_BLOCK = 16  # queries


def attend(
    q_BTHQ: Any, active: KVSegment, prior: KVSegment, sink_H: Any, *, window: int, query_block: int
) -> Any:
    """Return `y_BTHC` of `attention_full` if there is no window, else of `attention_swa`."""
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


def attend_per_kv_head(
    q_BTHQ: Any, active: KVSegment, prior: KVSegment, sink_H: Any, *, window: int, query_block: int
) -> Any:
    """Return `y_BTHC` as `attend` does, one KV head at a time, in blocks of up to `query_block`."""
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
