"""Eager-mode attention: one-token sequences in a compiled call, others by KV head and query block.

Host code, not a kernel: loops, threads and blocks follow from sizes. Static mode attends with all
heads at once (`attend`). The kernels say what is computed; `cpu/decode_attention.py` computes it
for sequences of one token, where numba can be used.
"""

from typing import Any

import numpy as np

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.cpu.thread_pool import parallel_for
from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.attention_swa import attention_swa
from mimo_v2_flash.kernels.axes import checked

__all__ = ["attend", "attend_per_kv_head", "eager_attend"]

BLOCK_SCORES = 1 << 19  # scores of a head's block: 2 MiB, about one core's cache
FEW_SCORES = 1 << 17  # below, threads cost more than they save
SHORTEST_BLOCK = 16  # queries


def attend(*tensors: Any, window: int, query_block: int) -> Any:
    """Return `y_BTHC` of `attention_full` if there is no window, else of `attention_swa`."""
    if window == NO_WINDOW:
        return attention_full(*tensors, query_block=query_block)
    return attention_swa(*tensors, window=window, query_block=query_block)


@checked
def eager_attend(
    q_BTHQ: Any,
    k_BTKQ: Any,
    v_BTKC: Any,
    position_BT: Any,
    prior_k_BSKQ: Any,
    prior_v_BSKC: Any,
    prior_position_BS: Any,
    sink_H: Any,
    *,
    window: int,
    query_block: int,
) -> Any:
    """Return `y_BTHC` as `attend` does, but weights and scores are float32 whatever q is."""
    segments = k_BTKQ, v_BTKC, position_BT, prior_k_BSKQ, prior_v_BSKC, prior_position_BS
    tensors = (q_BTHQ.astype(np.float32, copy=False), *segments, sink_H)
    loops = _decode_loops(*tensors) if window >= 1 else None
    if loops is None:
        y_BTHC = attend_per_kv_head(*tensors, window=window, query_block=query_block)
    else:
        y_BTHC = loops.decode_attention(*tensors, window=window)
    return y_BTHC.astype(q_BTHQ.dtype, copy=False)


def _decode_loops(
    q_BTHQ: Any, k_BTKQ: Any, v_BTKC: Any, _: Any, prior_k: Any, prior_v: Any, *__: Any
) -> Any:
    """Return the module of compiled decode attention, or None if it cannot read these tensors."""
    (T, H), K = q_BTHQ.shape[1:3], k_BTKQ.shape[2]
    loops = compiled_module("decode_attention") if T == 1 and H % K == 0 else None
    dtypes = {part.dtype for part in (k_BTKQ, v_BTKC, prior_k, prior_v)}
    if loops is None or len(dtypes) > 1:
        return None
    return loops if loops.is_readable(prior_k) and loops.is_readable(prior_v) else None


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
