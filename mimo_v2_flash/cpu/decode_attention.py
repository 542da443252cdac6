"""Compiled attention of one-token sequences over the KV cache.

A task is some KV heads of some sequences. A head's visible keys and values are copied, as float32,
to blocks that stay in a core's cache, and the softmax runs from block to block. So the sums of a
head have one order, whatever the threads, the neighbours and the slots that are not visible; and
what is not visible is never read.

Source: online softmax, arXiv:1805.02867, algorithm 3. `kernels/attention.py` is the plain
statement. docs/decisions/0029 has the figures.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int32, intp, types, uint16
from numpy.lib.stride_tricks import as_strided

from .attention_tile import KEYS, QUERIES, VALUES, add_values, copy_row, fill_scores
from .code_cache import compile_now
from .exponential import exponential
from .loops import in_order, inlined, summed
from .thread_pool import MIN_SHARED_WORK, available_threads, parallel_for
from .tile import LANES, LINE

__all__ = ["attend_pairs", "decode_attention", "is_readable", "task_edges"]

KEY_BLOCK = 32  # keys, and then values, of MiMo's widths in a core's first cache
PAIR_KEYS = 8  # keys that take as long as what is done once for each pair
TASKS = 4  # for each thread, so that all threads end together
NO_SINK = np.float32(-1e30)  # that of `kernels.softmax`, a package above this one
ZERO, ONE = map(np.float32, (0, 1))
MAGNITUDE, SIGN_BIT, SMALLEST = np.int32(0x7FFFFFFF), np.int32(31), np.int32(-(2**31))


class _Scratch(NamedTuple):
    """What a thread computes in: the queries of a pair, a block of keys, and the sums so far."""

    q_GQ: Any
    k_SQ: Any
    v_SC: Any
    score_GS: Any
    peak_G: Any
    total_G: Any
    y_GC: Any


@inlined
def _ordered(bits):
    """Return the bits of a float as an integer of the same order, and the other way round."""
    return np.int32(bits ^ ((bits >> SIGN_BIT) & MAGNITUDE))


@summed
def _softmax(score_GS, queries, keys, peak_G, total_G, y_GC):
    """Replace a block's scores by weights; bring what was summed before it to the new peaks."""
    for g in range(queries):
        largest = SMALLEST  # as integers: LLVM has no vectors for the largest of floats
        for s in range(keys):
            largest = max(largest, _ordered(np.float32(score_GS[g, s]).view(np.int32)))
        peak = max(peak_G[g], np.int32(_ordered(largest)).view(np.float32))
        factor, total = exponential(peak_G[g] - peak), ZERO
        for s in range(keys):
            weight = exponential(score_GS[g, s] - peak)
            score_GS[g, s] = weight
            total += weight
        peak_G[g], total_G[g] = peak, total_G[g] * factor + total
        for c in range(y_GC.shape[1]):
            y_GC[g, c] *= factor


@summed
def _add_block(scratch, queries, keys):
    """Add the block of keys and values in `scratch` to the sums of its queries."""
    q_GQ, k_SQ, v_SC, score_GS, peak_G, total_G, y_GC = scratch
    for s in range(0, keys, KEYS):
        for g in range(0, queries, QUERIES):
            fill_scores(q_GQ, g, k_SQ, s, score_GS)
    _softmax(score_GS, queries, keys, peak_G, total_G, y_GC)
    for g in range(0, queries, QUERIES):
        for c in range(0, y_GC.shape[1], VALUES):
            add_values(score_GS, g, v_SC, keys, y_GC, c)


@in_order
def _matrix(rows, columns):
    """Return a matrix of zeros that begins where a line of the processor's cache does."""
    x_I, line = np.zeros(rows * columns + LINE, np.float32), LINE // 4
    start = -(x_I.ctypes.data // 4) % line
    return x_I[start : start + rows * columns].reshape(rows, columns)


@in_order
def _new_scratch(queries, Q, C):
    rows, width = -(-queries // QUERIES) * QUERIES, -(-C // VALUES) * VALUES
    depth = -(-Q // LANES) * LANES
    return _Scratch(
        _matrix(rows, depth),
        _matrix(KEY_BLOCK, depth),
        _matrix(KEY_BLOCK, width),
        _matrix(rows, KEY_BLOCK),
        np.empty(queries, np.float32),
        np.empty(queries, np.float32),
        _matrix(rows, width),
    )


@in_order
def _visible_slots(position_S, position, window, slot_S):
    """Fill the beginning of `slot_S` with the slots of the visible keys; return their number."""
    keys = 0
    for s in range(position_S.size):
        slot_S[keys] = s
        age = np.int64(position) - np.int64(position_S[s])
        keys += (position_S[s] >= 0) & (age > 0) & (age < window)
    return keys


@in_order
def _copy_slots(prior_ZKI, row, slot_S, head, is_float32, out_SQ):
    """Copy what a KV head has in some slots of the sequence that begins at `row`."""
    for s in range(slot_S.size):
        copy_row(prior_ZKI, row + slot_S[s], head, is_float32, out_SQ, s)


@in_order
def _begin_pair(scratch, q_BHQ, sink_H, b, first):
    """Begin the sums of the queries from head `first` on with their sinks."""
    scratch.y_GC[:] = ZERO
    for g in range(scratch.peak_G.size):
        scratch.peak_G[g], scratch.total_G[g] = max(sink_H[first + g], NO_SINK), ONE
        for i in range(q_BHQ.shape[2]):
            scratch.q_GQ[g, i] = q_BHQ[b, first + g, i]


@in_order
def _end_pair(scratch, y_BHC, b, first):
    """Write the outputs of the queries from head `first` on."""
    for g in range(scratch.peak_G.size):
        for c in range(y_BHC.shape[2]):
            y_BHC[b, first + g, c] = scratch.y_GC[g, c] / scratch.total_G[g]


@in_order
def attend_pairs(
    q_BHQ,
    k_BKI,
    v_BKI,
    position_B,
    prior_k_ZKI,
    prior_v_ZKI,
    prior_position_BS,
    sink_H,
    y_BHC,
    slots,
    window,
    start,
    end,
):
    """Fill `y_BHC` for pairs `start` to `end` of sequence and KV head.

    Queries are scaled; keys and values are 16-bit halves of float32, or bfloat16.
    """
    (H, Q), K, C = q_BHQ.shape[1:], k_BKI.shape[1], y_BHC.shape[2]
    G, is_float32 = H // K, k_BKI.shape[2] > Q
    scratch = _new_scratch(G, Q, C)
    k_SQ, v_SC = scratch.k_SQ, scratch.v_SC
    slot_S = np.empty(prior_position_BS.shape[1] + 1, np.intp)
    row, keys = -1, 0
    for pair in range(start, end):
        b, head = pair // K, pair % K
        if b != row:
            row, keys = b, _visible_slots(prior_position_BS[b], position_B[b], window, slot_S)
        has_token = int(position_B[b] >= 0)
        _begin_pair(scratch, q_BHQ, sink_H, b, head * G)
        for first in range(0, keys + has_token, KEY_BLOCK):
            cached, count = min(KEY_BLOCK, keys - first), min(KEY_BLOCK, keys + has_token - first)
            block_S = slot_S[first : first + cached]
            _copy_slots(prior_k_ZKI, b * slots, block_S, head, is_float32, k_SQ)
            _copy_slots(prior_v_ZKI, b * slots, block_S, head, is_float32, v_SC)
            if count > cached:
                copy_row(k_BKI, b, head, is_float32, k_SQ, cached)
                copy_row(v_BKI, b, head, is_float32, v_SC, cached)
            _add_block(scratch, G, count)
        _end_pair(scratch, y_BHC, b, head * G)


def _input(dtype: Any, axes: int, layout: str = "C") -> Any:
    return types.Array(dtype, axes, layout, readonly=True)


HALVES = _input(uint16, 3)
compile_now(
    attend_pairs,
    *(_input(float32, 3), HALVES, HALVES, _input(int32, 1)),
    *(HALVES, HALVES, _input(int32, 2, "A"), _input(float32, 1)),
    *(types.Array(float32, 3, "C"), intp, intp, intp, intp),
)


def is_readable(prior_BSK: np.ndarray) -> bool:
    """Return whether a cache's keys or values are rows side by side, as those of a view are."""
    size, (heads, width) = prior_BSK.itemsize, prior_BSK.shape[2:]
    sequence, *inner = prior_BSK.strides
    is_whole = inner == [heads * width * size, width * size, size] and sequence % inner[0] == 0
    return not prior_BSK.size or (is_whole and prior_BSK.flags.aligned)


def decode_attention(
    q_BTHQ: np.ndarray,
    k_BTKQ: np.ndarray,
    v_BTKC: np.ndarray,
    position_BT: np.ndarray,
    prior_k_BSKQ: np.ndarray,
    prior_v_BSKC: np.ndarray,
    prior_position_BS: np.ndarray,
    sink_H: np.ndarray,
    *,
    window: int,
) -> np.ndarray:
    """Return `y_BTHC`, float32, of one token for each sequence: T is 1.

    Queries are float32. Keys and values of the step have the dtype of the cache, float32 or
    bfloat16, and those of the cache are `is_readable`. A row at position -1 is zero.
    """
    (B, _, H, Q), (K, C) = q_BTHQ.shape, v_BTKC.shape[2:]
    position_B, y_BHC = position_BT[:, 0], np.empty((B, H, C), np.float32)
    step = (q_BTHQ[:, 0] * np.float32(Q**-0.5), _halves(k_BTKQ)[:, 0], _halves(v_BTKC)[:, 0])
    arguments = (
        *map(np.ascontiguousarray, (*step, position_B)),
        _rows(_halves(prior_k_BSKQ)),
        _rows(_halves(prior_v_BSKC)),
        prior_position_BS,
        sink_H.astype(np.float32, copy=False),
        y_BHC,
        _slots(prior_k_BSKQ),
        window,
    )
    key_B = np.minimum(position_B, min(window - 1, prior_position_BS.shape[1])) + 1
    is_shared = int(np.sum(key_B)) * H * (Q + C) >= MIN_SHARED_WORK
    edges = task_edges(key_B, K, TASKS * available_threads() if is_shared else 1)
    parallel_for(lambda task: attend_pairs(*arguments, *edges[task : task + 2]), len(edges) - 1)
    return y_BHC[:, None]


def task_edges(key_B: np.ndarray, heads: int, tasks: int) -> list[int]:
    """Return where up to `tasks` tasks of about equal work begin among the pairs, and their end.

    Pairs are those of a sequence, which attends to `key_B` keys, and one of `heads` KV heads.
    """
    if tasks == 1:
        return [0, key_B.size * heads]
    work_J = np.cumsum(np.repeat(key_B.astype(np.int64) + PAIR_KEYS, heads))
    targets = work_J[-1] * np.arange(1, tasks) // tasks
    inner = np.searchsorted(work_J, targets, side="right")
    return np.unique([0, *inner, work_J.size]).tolist()


def _halves(x: np.ndarray) -> np.ndarray:
    """Return `x` as 16-bit integers: one for each bfloat16, which numba lacks, two for float32."""
    return x.view(np.uint16)


def _slots(prior_BSK: np.ndarray) -> int:
    """Return the rows between the first slots of two sequences; an empty array has no strides."""
    return prior_BSK.strides[0] // prior_BSK.strides[1] if prior_BSK.size else 0


def _rows(prior_BSK: np.ndarray) -> np.ndarray:
    """Return the rows [Z, K, ...] of a cache from the first to the last of `prior_BSK`."""
    B, S = prior_BSK.shape[:2]
    rows = (B - 1) * _slots(prior_BSK) + S if S else 0
    return as_strided(prior_BSK, (rows, *prior_BSK.shape[2:]), prior_BSK.strides[1:])
