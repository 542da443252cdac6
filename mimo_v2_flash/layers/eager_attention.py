"""Eager-mode attention: KV heads in parallel on threads, in query blocks that fit a core's cache.

Host code, not a kernel: threads and blocks follow from sizes. Static mode attends with all heads at
once (`attend`); both modes compute with the same kernels.
"""

from typing import Any

import numpy as np

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.cpu.thread_pool import parallel_for
from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.attention_swa import attention_swa

__all__ = ["attend", "attend_per_kv_head"]

BLOCK_SCORES = 1 << 19  # scores of a head's block: 2 MiB, about one core's cache
FEW_SCORES = 1 << 17  # below, threads cost more than they save
SHORTEST_BLOCK = 16  # queries


def attend(*tensors: Any, window: int, query_block: int) -> Any:
    """Return `y_BTHC` of `attention_full` if there is no window, else of `attention_swa`."""
    if window == NO_WINDOW:
        return attention_full(*tensors, query_block=query_block)
    return attention_swa(*tensors, window=window, query_block=query_block)


def attend_per_kv_head(*tensors: Any, window: int, query_block: int) -> Any:
    """Return `y_BTHC` as `attend` does, one KV head at a time, in blocks of up to `query_block`."""
    q_BTHQ, _, v_BTKC, _, prior_k_BSKQ, *_ = tensors
    B, T, H, _ = q_BTHQ.shape
    K, C = v_BTKC.shape[2:]
    keys = min(T + prior_k_BSKQ.shape[1], window + query_block)
    if B * T * H * keys < FEW_SCORES:
        return attend(*tensors, window=window, query_block=query_block)
    G = H // K
    fitting = BLOCK_SCORES // (B * G * keys)
    block = min(query_block, max(SHORTEST_BLOCK, fitting))
    y_BTHC = np.empty((B, T, H, C), q_BTHQ.dtype)

    def attend_one_head(head: int) -> None:
        head_tensors = _slice_kv_head(head, G, *tensors)
        queries = slice(head * G, (head + 1) * G)
        y_BTHC[:, :, queries] = attend(*head_tensors, window=window, query_block=block)

    parallel_for(attend_one_head, K)
    return y_BTHC


def _slice_kv_head(
    head: int,
    G: int,
    q_BTHQ: Any,
    k_BTKQ: Any,
    v_BTKC: Any,
    position_BT: Any,
    prior_k_BSKQ: Any,
    prior_v_BSKC: Any,
    prior_position_BS: Any,
    sink_H: Any,
) -> tuple[Any, ...]:
    """Return the step's tensors for one KV head and its G query heads, views of the cache's.

    The step's own keys and values are widened here, once, and not in every block of queries.
    """
    queries, keys = slice(head * G, (head + 1) * G), slice(head, head + 1)
    widened = (part[:, :, keys].astype(np.float32, copy=False) for part in (k_BTKQ, v_BTKC))
    active = q_BTHQ[:, :, queries], *widened, position_BT
    prior = prior_k_BSKQ[:, :, keys], prior_v_BSKC[:, :, keys], prior_position_BS
    return (*active, *prior, sink_H[queries])
