"""Compiled attention of many tokens of each sequence: the chunks of a prompt.

A task is one KV head of some tokens of a sequence. Keys of 64 positions at a time are packed as
panels, which stay in a core's cache, and multiply the queries of all these tokens; the softmax runs
from block to block, so that no row of scores is ever whole. A token's sums have one order, whatever
the chunk that it came in, the threads and the slots that are not visible.

Source: blocks of queries and keys: FlashAttention-2, arXiv:2307.08691, algorithm 1.
`kernels/attention.py` is the plain statement; `decode_attention.py` computes the same for few
tokens. docs/decisions/0045 has the figures.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import intp

from .code_cache import compile_now
from .exponential import exponential
from .loops import in_order, summed
from .panel import FLOAT32_PANEL, PANEL, ROWS, panel_tile
from .thread_pool import MIN_SHARED_WORK, parallel_for, run_in_turn
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

__all__ = ["attend_tokens", "prefill_attention"]

KEY_BLOCK = 64  # positions: a whole number of panels
KEY_PANELS = KEY_BLOCK // PANEL
VALUES = (PANEL + 1) * PANEL  # words of the values of a panel's keys: their scales come first
TASK_ROWS = 512  # queries of a task: with their sums and a block of keys in the second cache
ONE = np.float32(1)
_add_products = panel_tile(FLOAT32_PANEL)


class _Scratch(NamedTuple):
    """What a task computes in: queries, a block of keys, its panels, and the sums so far."""

    q_GQ: Any
    k_SQ: Any
    v_SC: Any
    k_W: Any
    v_W: Any
    score_PGS: Any
    peak_G: Any
    total_G: Any
    y_PGC: Any


@in_order
def _new_scratch(queries, Q, C):
    panels, padded = -(-C // PANEL), -(-queries // ROWS) * ROWS
    k_W = matrix(1, KEY_PANELS * (Q + 1) * PANEL)[0]
    v_W = matrix(1, panels * KEY_PANELS * VALUES)[0]
    k_W[:], v_W[:] = ONE, ONE  # the scales, which stay
    return _Scratch(
        matrix(queries, Q),
        matrix(KEY_BLOCK, Q),
        matrix(KEY_BLOCK, panels * PANEL),
        k_W,
        v_W,
        matrix(KEY_PANELS * padded, PANEL).reshape(KEY_PANELS, padded, PANEL),
        np.empty(queries, np.float32),
        np.empty(queries, np.float32),
        matrix(panels * padded, PANEL).reshape(panels, padded, PANEL),
    )


@in_order
def _pack(scratch, start, end):
    """Pack rows `start` to `end` of keys, input after input, and of values."""
    k_SQ, v_SC, k_W, v_W = scratch.k_SQ, scratch.v_SC, scratch.k_W, scratch.v_W
    Q, panels = k_SQ.shape[1], scratch.y_PGC.shape[0]
    for s in range(start, end):
        place = s // PANEL * (Q + 1) * PANEL + PANEL + s % PANEL
        for i in range(Q):
            k_W[place + i * PANEL] = k_SQ[s, i]
        for c in range(panels):
            place = (c * KEY_PANELS + s // PANEL) * VALUES + (s % PANEL + 1) * PANEL
            for i in range(PANEL):
                v_W[place + i] = v_SC[s, c * PANEL + i]


@summed
def _peak(score_PGS, g, start, end, peak):
    """Return the largest of `peak` and a query's scores of keys `start` to `end`."""
    largest = ordered(np.float32(peak).view(np.int32))  # LLVM has no vectors for floats' largest
    for p in range(KEY_PANELS):
        for s in range(PANEL):
            bits = np.float32(score_PGS[p, g, s]).view(np.int32)
            largest = max(largest, ordered(bits) if start <= p * PANEL + s < end else SMALLEST)
    return np.int32(ordered(largest)).view(np.float32)


@summed
def _fill_weights(score_PGS, g, start, end, peak):
    """Replace a query's scores by weights, 0 where it does not see the key; return their sum."""
    total = ZERO
    for p in range(KEY_PANELS):
        for s in range(PANEL):
            weight = exponential(score_PGS[p, g, s] - peak)
            score_PGS[p, g, s] = weight if start <= p * PANEL + s < end else ZERO
            total += score_PGS[p, g, s]
    return total


@summed
def _weigh(scratch, g, start, end):
    """Make weights of a query's scores, and bring what was summed before to the new peak."""
    score_PGS, peak_G, total_G, y_PGC = scratch[-4:]
    peak = _peak(score_PGS, g, start, end, peak_G[g])
    total, factor = _fill_weights(score_PGS, g, start, end, peak), exponential(peak_G[g] - peak)
    peak_G[g], total_G[g] = peak, total_G[g] * factor + total
    if factor != ONE:
        for p in range(y_PGC.shape[0]):
            for c in range(PANEL):
                y_PGC[p, g, c] *= factor


@in_order
def _add_panel(x_GI, steps, panel_W, p, sum_GO):
    """Add the products of all rows of x with the panel from p on."""
    for g in range(0, x_GI.shape[0], ROWS):
        _add_products(x_GI, g, 0, steps, panel_W, p, sum_GO, g)


@in_order
def _add_block(scratch, heads, start_T, end_T, first, last, base):
    """Add a packed block of the listed keys `first` to `last` to the sums of queries.

    Row s of the block has key `base` + s.
    """
    q_GQ, k_W, v_W, score_PGS = scratch.q_GQ, scratch.k_W, scratch.v_W, scratch.score_PGS
    (queries, Q), keys = q_GQ.shape, last - base
    panels = -(-keys // PANEL)
    score_PGS[:] = ZERO
    for p in range(panels):
        _add_panel(q_GQ, Q, k_W, p * (Q + 1) * PANEL, score_PGS[p])
    for g in range(queries):
        t = g // heads
        _weigh(scratch, g, max(first, start_T[t]) - base, min(last, end_T[t]) - base)
    for c in range(scratch.y_PGC.shape[0]):
        for p in range(panels):
            steps, place = min(PANEL, keys - p * PANEL), (c * KEY_PANELS + p) * VALUES
            _add_panel(score_PGS[p, :queries], steps, v_W, place, scratch.y_PGC[c])


@in_order
def _end_queries(scratch, y_NHC, n, heads, first):
    """Write the outputs of `heads` heads from `first` on, of tokens from n on."""
    for g in range(scratch.peak_G.size):
        token, head = n + g // heads, first + g % heads
        for c in range(y_NHC.shape[2]):
            y_NHC[token, head, c] = scratch.y_PGC[c // PANEL, g, c % PANEL] / scratch.total_G[g]


@in_order
def attend_tokens(
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
    b,
    head,
    start,
    end,
):
    """Fill `y_NHC` for a KV head of tokens `start` to `end` of a sequence: `key_arguments`."""
    (H, Q), K, C, T = q_NHQ.shape[1:], k_NKI.shape[1], y_NHC.shape[2], position_BT.shape[1]
    G, S, n = H // K, prior_position_BS.shape[1], b * T + start
    slot_J, position_J = np.empty(S + T, np.intp), np.empty(S + T, np.int64)
    prior, keys = list_keys(prior_position_BS[b], position_BT[b], window, slot_J, position_J)
    position_T = position_BT[b, start:end]
    start_T, end_T = find_visible(position_J[: prior + keys], position_T, window)
    scratch = _new_scratch((end - start) * G, Q, C)
    begin_queries(scratch, q_NHQ, sink_H, n, G, head * G)
    first, keys = np.min(start_T), np.max(end_T)
    while first < keys:
        last = block_end(position_J, first, keys, KEY_BLOCK)
        base = first - position_J[first] % KEY_BLOCK  # a position has its row in each chunk
        cached, to = min(max(first, prior), last), (head, kind, scratch)
        copy_rows((prior_k_ZKI, prior_v_ZKI), b * slots, slot_J[first:cached], *to, first - base)
        copy_rows((k_NKI, v_NKI), b * T, slot_J[cached:last], *to, cached - base)
        _pack(scratch, first - base, last - base)
        _add_block(scratch, G, start_T, end_T, first, last, base)
        first = last
    _end_queries(scratch, y_NHC, n, G, head * G)


compile_now(attend_tokens, *KEY_TYPES, intp, intp, intp, intp)


def prefill_attention(
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
    """Return `y_BTHC`, float32, as `decode_attention.decode_attention` does."""
    (B, T, H, Q), K, C = q_BTHQ.shape, k_BTKI.shape[2], output_width(q_BTHQ, k_BTKI, v_BTKJ)
    y_BTHC = np.empty((B, T, H, C), np.float32)
    keys = k_BTKI, v_BTKJ, position_BT, prior_k_BSKI, prior_v_BSKJ, prior_position_BS
    arguments = key_arguments(q_BTHQ, *keys, sink_H, y_BTHC, window)
    step = max(1, TASK_ROWS * K // H)
    tasks = [
        (b, head, start, min(start + step, T))
        for start in reversed(range(0, T, step))  # the last tokens see most keys
        for b in range(B)
        for head in range(K)
    ]
    work = B * T * H * (Q + C) * min(window, T + prior_position_BS.shape[1])
    run = parallel_for if work >= MIN_SHARED_WORK else run_in_turn
    run(lambda task: attend_tokens(*arguments, *tasks[task]), len(tasks))
    return y_BTHC
