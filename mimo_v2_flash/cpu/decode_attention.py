"""Compiled attention of few tokens of each sequence: one, or one and drafts.

A task is some KV heads of some sequences. A head's visible keys and values are copied, as float32,
to blocks that stay in a core's cache, and the softmax of all tokens runs from block to block. A
block is of 32 positions, whichever token sees them. So the sums of a token's head have one order,
whatever the threads, the neighbours, the step's other tokens and the slots that are not visible;
and what no token sees is never read.

Source: online softmax, arXiv:1805.02867, algorithm 3. `kernels/attention.py` is the plain
statement. docs/decisions/0032 has the figures.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import intp

from .attention_tile import KEYS, QUERIES, VALUES, add_values, fill_scores
from .code_cache import compile_now
from .exponential import exponential
from .loops import in_order, inlined, summed
from .thread_pool import MIN_SHARED_WORK, available_threads, parallel_for
from .tile import LANES
from .visible_keys import (
    KEY_TYPES,
    SMALLEST,
    ZERO,
    begin_queries,
    block_end,
    copy_rows,
    find_visible,
    key_arguments,
    list_keys,
    matrix,
    ordered,
    output_width,
)

__all__ = ["attend_pairs", "decode_attention", "task_edges"]

KEY_BLOCK = 32  # positions: keys, and then values, of MiMo's widths in a core's first cache
PAIR_KEYS = 8  # keys that take as long as what is done once for each pair
TASKS = 4  # for each thread, so that all threads end together


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
def _softmax(score_GS, g, start, end, peak_G, total_G, y_GC):
    """Replace scores of a query by weights, and bring what was summed before to the new peak."""
    seen = range(np.uintp(start), np.uintp(end))  # a signed index may be one from the end
    largest = SMALLEST  # as integers: LLVM has no vectors for the largest of floats
    for s in seen:
        largest = max(largest, ordered(np.float32(score_GS[g, s]).view(np.int32)))
    peak = max(peak_G[g], np.int32(ordered(largest)).view(np.float32))
    factor, total = exponential(peak_G[g] - peak), ZERO
    for s in seen:
        weight = exponential(score_GS[g, s] - peak)
        score_GS[g, s] = weight
        total += weight
    peak_G[g], total_G[g] = peak, total_G[g] * factor + total
    for c in range(y_GC.shape[1]):
        y_GC[g, c] *= factor


@summed
def _fill_weights(score_GS, start_T, end_T, first, keys, peak_G, total_G, y_GC):
    """Replace a block's scores by weights, 0 where a token does not see the key.

    Its keys are those from `first` on in a list, of which token t sees `start_T[t]` to `end_T[t]`.
    """
    heads = peak_G.size // start_T.size
    for g in range(peak_G.size):
        start, end = max(0, start_T[g // heads] - first), min(keys, end_T[g // heads] - first)
        if start < end:
            _softmax(score_GS, g, start, end, peak_G, total_G, y_GC)
        if end - start < keys:
            score_GS[g, :start] = ZERO
            score_GS[g, max(0, end) :] = ZERO


@summed
def _add_block(scratch, start_T, end_T, first, keys):
    """Add the block of `keys` keys and values in `scratch` to the sums of its queries."""
    q_GQ, k_SQ, v_SC, score_GS, peak_G, total_G, y_GC = scratch
    for s in range(0, keys, KEYS):
        for g in range(0, peak_G.size, QUERIES):
            fill_scores(q_GQ, g, k_SQ, s, score_GS)
    _fill_weights(score_GS, start_T, end_T, first, keys, peak_G, total_G, y_GC)
    for g in range(0, peak_G.size, QUERIES):
        for c in range(0, y_GC.shape[1], VALUES):
            add_values(score_GS, g, v_SC, keys, y_GC, c)


@in_order
def _new_scratch(queries, Q, C):
    rows, width = -(-queries // QUERIES) * QUERIES, -(-C // VALUES) * VALUES
    depth = -(-Q // LANES) * LANES
    return _Scratch(
        matrix(rows, depth),
        matrix(KEY_BLOCK, depth),
        matrix(KEY_BLOCK, width),
        matrix(rows, KEY_BLOCK),
        np.empty(queries, np.float32),
        np.empty(queries, np.float32),
        matrix(rows, width),
    )


@in_order
def _end_pair(scratch, y_NHC, n, heads, first):
    """Write the outputs of `heads` heads from `first` on, of tokens from `n` on."""
    for g in range(scratch.peak_G.size):
        token, head = n + g // heads, first + g % heads
        for c in range(y_NHC.shape[2]):
            y_NHC[token, head, c] = scratch.y_GC[g, c] / scratch.total_G[g]


@in_order
def attend_pairs(
    q_NHQ,
    k_NKI,
    v_NKI,
    position_BT,
    prior_k_ZKI,
    prior_v_ZKI,
    prior_position_BS,
    sink_H,
    y_NHC,
    kind,
    slots,
    window,
    start,
    end,
):
    """Fill `y_NHC` for pairs `start` to `end` of sequence and KV head.

    Queries are scaled; keys and values are the bytes of rows of a `kind` of `KINDS`.
    """
    (H, Q), K, C, T = q_NHQ.shape[1:], k_NKI.shape[1], y_NHC.shape[2], position_BT.shape[1]
    G, S = H // K, prior_position_BS.shape[1]
    scratch, row, prior, keys = _new_scratch(T * G, Q, C), -1, 0, 0
    slot_J, position_J = np.empty(S + T, np.intp), np.empty(S + T, np.int64)
    start_T = end_T = np.empty(T, np.intp)
    for pair in range(start, end):
        b, head = pair // K, pair % K
        if b != row:
            row, position_T = b, position_BT[b]
            prior, keys = list_keys(prior_position_BS[b], position_T, window, slot_J, position_J)
            keys += prior
            start_T, end_T = find_visible(position_J[:keys], position_T, window)
        scratch.y_GC[:] = ZERO
        begin_queries(scratch, q_NHQ, sink_H, b * T, G, head * G)
        first = 0
        while first < keys:
            last = block_end(position_J, first, keys, KEY_BLOCK)
            cached, to = min(max(first, prior), last), (head, kind, scratch)
            copy_rows((prior_k_ZKI, prior_v_ZKI), b * slots, slot_J[first:cached], *to, 0)
            copy_rows((k_NKI, v_NKI), b * T, slot_J[cached:last], *to, cached - first)
            _add_block(scratch, start_T, end_T, first, last - first)
            first = last
        _end_pair(scratch, y_NHC, b * T, G, head * G)


compile_now(attend_pairs, *KEY_TYPES, intp, intp)


def decode_attention(
    q_BTHQ: np.ndarray,
    k_BTKI: np.ndarray,
    v_BTKJ: np.ndarray,
    position_BT: np.ndarray,
    prior_k_BSKI: np.ndarray,
    prior_v_BSKJ: np.ndarray,
    prior_position_BS: np.ndarray,
    sink_H: np.ndarray,
    *,
    window: int,
) -> np.ndarray:
    """Return `y_BTHC`, float32: a token's bits do not depend on how many are before it in its step.

    Queries are float32. Keys and values of the step are rows of the cache's dtype, of floats or as
    `kv_codes.encode` returns them, and those of the cache are `is_readable`. Tokens at position -1
    are zero; those between them, in a row, are at consecutive positions.
    """
    (B, T, H, Q), K, C = q_BTHQ.shape, k_BTKI.shape[2], output_width(q_BTHQ, k_BTKI, v_BTKJ)
    y_BTHC = np.empty((B, T, H, C), np.float32)
    keys = k_BTKI, v_BTKJ, position_BT, prior_k_BSKI, prior_v_BSKJ, prior_position_BS
    arguments = key_arguments(q_BTHQ, *keys, sink_H, y_BTHC, window)
    key_B = np.minimum(position_BT[:, 0], min(window - 1, prior_position_BS.shape[1])) + T
    is_shared = int(np.sum(key_B)) * T * H * (Q + C) >= MIN_SHARED_WORK
    edges = task_edges(key_B, K, TASKS * available_threads() if is_shared else 1)
    parallel_for(lambda task: attend_pairs(*arguments, *edges[task : task + 2]), len(edges) - 1)
    return y_BTHC


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
