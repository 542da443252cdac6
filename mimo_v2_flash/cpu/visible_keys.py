"""What the compiled attentions share: the keys that tokens see, in the order of their positions.

A block of keys is of so many positions, whichever tokens see them: so a token's sums have one order
whatever is beside it. Keys and values are bytes: of floats, or of codes of 8 bits and their scales.
"""

from typing import Any

import numpy as np
from numba import float32, int32, intp, types, uint8
from numpy.lib.stride_tricks import as_strided

from .attention_tile import KINDS, copy_row
from .kv_codes import channels
from .loops import in_order, inlined
from .tile import LINE

__all__ = [
    "KEY_TYPES", "SMALLEST", "ZERO", "begin_queries", "block_end", "copy_rows", "find_visible",
    "is_readable", "key_arguments", "list_keys", "matrix", "ordered", "output_width",
]  # fmt: skip

NO_SINK = np.float32(-1e30)  # that of `kernels.softmax`, a package above this one
ZERO, ONE = map(np.float32, (0, 1))
MAGNITUDE, SIGN_BIT, SMALLEST = np.int32(0x7FFFFFFF), np.int32(31), np.int32(-(2**31))


@inlined
def ordered(bits):
    """Return the bits of a float as an integer of the same order, and the other way round."""
    return np.int32(bits ^ ((bits >> SIGN_BIT) & MAGNITUDE))


@in_order
def matrix(rows, columns):
    """Return a matrix of zeros that begins where a line of the processor's cache does."""
    x_I, line = np.zeros(rows * columns + LINE, np.float32), LINE // 4
    start = -(x_I.ctypes.data // 4) % line
    return x_I[start : start + rows * columns].reshape(rows, columns)


@in_order
def list_keys(position_S, position_T, window, slot_J, position_J):
    """List the keys that any token of a sequence sees, by position; return how many are cached.

    After these come the step's tokens, of which `slot_J` has the index; their number is returned
    too. Positions ascend in the cache from its slot of the oldest key on.
    """
    S, start, keys, tokens = position_S.size, np.int64(position_T[0]), 0, 0
    oldest = max(0, start - window + 1) % max(1, S)
    for index in range(oldest, oldest + S):
        slot = index if index < S else index - S
        position = np.int64(position_S[slot])
        if 0 <= position < start and start - position < window:
            j = keys
            while j > 0 and position_J[j - 1] > position:
                position_J[j], slot_J[j] = position_J[j - 1], slot_J[j - 1]
                j -= 1
            position_J[j], slot_J[j] = position, slot
            keys += 1
    for t in range(position_T.size):
        if position_T[t] >= 0:
            position_J[keys + tokens], slot_J[keys + tokens] = position_T[t], t
            tokens += 1
    return keys, tokens


@in_order
def find_visible(position_J, position_T, window):
    """Return which of the listed keys each token sees: those from `start_T` to `end_T`."""
    start_T, end_T = np.empty(position_T.size, np.intp), np.empty(position_T.size, np.intp)
    for t in range(position_T.size):
        position = np.int64(position_T[t])
        start_T[t] = _count_until(position_J, position - window)
        end_T[t] = _count_until(position_J, position)
    return start_T, end_T


@in_order
def _count_until(position_J, last):
    """Return how many of the listed keys are at position `last` or before it."""
    low, high = 0, position_J.size
    while low < high:
        middle = (low + high) // 2
        if position_J[middle] <= last:
            low = middle + 1
        else:
            high = middle
    return low


@in_order
def block_end(position_J, first, keys, size):
    """Return where the block of `size` positions that begins with a listed key ends."""
    end, block = first + 1, position_J[first] // size
    while end < min(keys, first + size) and position_J[end] // size == block:
        end += 1
    return end


@in_order
def copy_rows(kv_ZKI, row, slot_J, head, kind, scratch, s):
    """Copy what a KV head has of keys in `slot_J`, counted from `row`, to row s and after it."""
    k_ZKI, v_ZKI = kv_ZKI
    for j in range(slot_J.size):
        copy_row(k_ZKI, row + slot_J[j], head, kind, scratch.k_SQ, s + j)
        copy_row(v_ZKI, row + slot_J[j], head, kind, scratch.v_SC, s + j)


@in_order
def begin_queries(scratch, q_NHQ, sink_H, n, heads, first):
    """Begin the softmax of `heads` heads from `first` on, of tokens from n on, with their sinks."""
    for g in range(scratch.peak_G.size):
        token, head = n + g // heads, first + g % heads
        scratch.peak_G[g], scratch.total_G[g] = max(sink_H[head], NO_SINK), ONE
        for i in range(q_NHQ.shape[2]):
            scratch.q_GQ[g, i] = q_NHQ[token, head, i]


def _input(dtype: Any, axes: int, layout: str = "C") -> Any:
    return types.Array(dtype, axes, layout, readonly=True)


_BYTES = _input(uint8, 3)
KEY_TYPES = (
    *(_input(float32, 3), _BYTES, _BYTES, _input(int32, 2)),
    *(_BYTES, _BYTES, _input(int32, 2, "A"), _input(float32, 1)),
    *(types.Array(float32, 3, "C"), intp, intp, intp),
)
"""Types of `key_arguments`."""


def is_readable(prior_BSK: np.ndarray) -> bool:
    """Return whether a cache's keys or values are rows side by side, as those of a view are."""
    size, (heads, width) = prior_BSK.itemsize, prior_BSK.shape[2:]
    sequence, *inner = prior_BSK.strides
    is_whole = inner == [heads * width * size, width * size, size] and sequence % inner[0] == 0
    return not prior_BSK.size or (is_whole and prior_BSK.flags.aligned)


def key_arguments(
    q_BTHQ: np.ndarray,
    k_BTKI: np.ndarray,
    v_BTKJ: np.ndarray,
    position_BT: np.ndarray,
    prior_k_BSKI: np.ndarray,
    prior_v_BSKJ: np.ndarray,
    prior_position_BS: np.ndarray,
    sink_H: np.ndarray,
    y_BTHC: np.ndarray,
    window: int,
) -> tuple[Any, ...]:
    """Return what compiled attentions read and write: scaled queries, rows of keys and values.

    They are q_NHQ, k_NKI, v_NKI, position_BT, prior_k_ZKI, prior_v_ZKI, prior_position_BS, sink_H,
    y_NHC, the cache's dtype as one of `KINDS`, the rows between two of its sequences, and the
    window.
    """
    (B, T, H, Q), C = q_BTHQ.shape, y_BTHC.shape[3]
    step = q_BTHQ * np.float32(Q**-0.5), _bytes(k_BTKI), _bytes(v_BTKJ)
    return (
        *(np.ascontiguousarray(x_BT).reshape(B * T, *x_BT.shape[2:]) for x_BT in step),
        np.ascontiguousarray(position_BT),
        _rows(_bytes(prior_k_BSKI)),
        _rows(_bytes(prior_v_BSKJ)),
        prior_position_BS,
        sink_H.astype(np.float32, copy=False),
        y_BTHC.reshape(B * T, H, C),
        KINDS.index(k_BTKI.dtype),
        _slots(prior_k_BSKI),
        window,
    )


def output_width(q_BTHQ: np.ndarray, k_BTKI: np.ndarray, v_BTKJ: np.ndarray) -> int:
    """Return the channels of a value; ValueError if keys have not those of queries."""
    if channels(k_BTKI) != q_BTHQ.shape[3]:
        raise ValueError(
            f"attention: queries have {q_BTHQ.shape[3]} channels, keys {channels(k_BTKI)}"
        )
    return channels(v_BTKJ)


def _bytes(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint8)


def _slots(prior_BSK: np.ndarray) -> int:
    """Return the rows between the first slots of two sequences; an empty array has no strides."""
    return prior_BSK.strides[0] // prior_BSK.strides[1] if prior_BSK.size else 0


def _rows(prior_BSK: np.ndarray) -> np.ndarray:
    """Return the rows [Z, K, ...] of a cache from the first to the last of `prior_BSK`."""
    B, S = prior_BSK.shape[:2]
    rows = (B - 1) * _slots(prior_BSK) + S if S else 0
    return as_strided(prior_BSK, (rows, *prior_BSK.shape[2:]), prior_BSK.strides[1:])
