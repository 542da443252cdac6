"""The loops of `compiled_matmul`: weights decoded beside the sums that they enter.

Compiled by numba for the machine that runs them, and kept on disk; no instruction set is assumed.

Source: numba's nopython mode; register blocking of four rows of x by four of w.
"""

import numpy as np
from numba import njit

from .block_scale import BLOCK
from .compiled_tile import COLUMNS, tile
from .compiled_words import BFLOAT16, FLOAT8, FLOAT32, LANES, LINE

__all__ = ["bfloat16_rows", "bfloat16_tile", "float8_rows", "float8_tile", "float32_rows"]

INNER = "4fcb275334f8abef"  # of compiled_tile and _words: numba's cache looks at this file alone
KEEP = np.int32(-0x78100000)  # sign, exponent and mantissa of a code shifted left by 20
HALF_UNIT = np.float32(2.0**60)  # a decoded code is 2^120 too small; in two steps none overflows
NAN = np.float32(np.nan)
TOGETHER = 8  # rows of x that a block of columns sees in turn: they stay in a core's own cache
in_order = njit(nogil=True, cache=True)
compiled = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})  # sums
inlined = njit(inline="always")


@inlined
def _of_float8(code):
    return np.int32((np.int32(code) << 20) & KEEP).view(np.float32)


@inlined
def _of_bfloat16(bits):
    return np.uint32(np.uint32(bits) << 16).view(np.float32)


@inlined
def _of_float32(value):
    return value


def _columns(element_format, decoded):
    """Return the loop that fills four columns; it returns whether a code may be no number."""
    in_tiles, step = _in_tiles(element_format), LINE // element_format.size

    @compiled
    def columns(x_NI, w_OI, y_NO, sum_N4L, o, last):
        end = w_OI.shape[1] // step * step
        has_nan = end > 0 and in_tiles(x_NI, w_OI, sum_N4L, o, last, end)
        for n in range(x_NI.shape[0]):
            for column in range(min(COLUMNS, last - o + 1)):
                total = _total(sum_N4L[n, column]) if end > 0 else np.float32(0)
                for i in range(end, w_OI.shape[1]):
                    total += x_NI[n, i] * decoded(w_OI[o + column, i])
                y_NO[n, o + column] = total
        return has_nan or end < w_OI.shape[1]

    return columns


def _in_tiles(element_format):
    """Return the loop over rows of x, four at a time, that writes `sum_N4L`."""
    one, two, three, four = (tile(element_format, rows) for rows in (1, 2, 3, 4))

    @compiled
    def in_tiles(x_NI, w_OI, sum_N4L, o, last, end):
        has_nan, N = False, x_NI.shape[0]
        for n in range(0, N, 4):
            if n + 1 == N:
                has_nan |= one(sum_N4L, n, x_NI, w_OI, o, last, end)
            elif n + 2 == N:
                has_nan |= two(sum_N4L, n, x_NI, w_OI, o, last, end)
            elif n + 3 == N:
                has_nan |= three(sum_N4L, n, x_NI, w_OI, o, last, end)
            else:
                has_nan |= four(sum_N4L, n, x_NI, w_OI, o, last, end)
        return has_nan

    return in_tiles


@compiled
def _total(sum_L):
    total = np.float32(0)
    for lane in range(LANES):
        total += sum_L[lane]
    return total


def _rows(columns):
    """Return the loop over `TOGETHER` rows of x and a block of columns at a time."""

    @compiled
    def rows(x_NI, w_OI, y_NO, start, end):
        sum_N4L = np.empty((TOGETHER, COLUMNS, LANES), np.float32)
        for row in range(start, end, BLOCK):
            stop = min(row + BLOCK, end)
            for n in range(0, x_NI.shape[0], TOGETHER):
                some = slice(n, n + TOGETHER)
                for o in range(row, stop, COLUMNS):
                    columns(x_NI[some], w_OI, y_NO[some], sum_N4L, o, stop - 1)

    return rows


_float8_columns = _columns(FLOAT8, _of_float8)
_bfloat16_rows = _rows(_columns(BFLOAT16, _of_bfloat16))
_float32_rows = _rows(_columns(FLOAT32, _of_float32))


@compiled
def bfloat16_rows(x_NI, bits_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO`."""
    _bfloat16_rows(x_NI, bits_OI, y_NO, start, end)


@compiled
def float32_rows(x_NI, w_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO`."""
    _float32_rows(x_NI, w_OI, y_NO, start, end)


@compiled
def float8_rows(x_NI, code_OI, scale_YX, y_NO, start, end, height):
    """Fill columns `start` to `end` of `y_NO`: the scales of a block row go into x, once."""
    u_NI = np.empty((min(x_NI.shape[0], TOGETHER), x_NI.shape[1]), np.float32)
    sum_N4L = np.empty((TOGETHER, COLUMNS, LANES), np.float32)
    row = start
    while row < end:
        stop = min((row // height + 1) * height, end)
        for n in range(0, x_NI.shape[0], TOGETHER):
            some_NI = x_NI[n : n + TOGETHER]
            for m in range(some_NI.shape[0]):
                _scaled(some_NI[m], scale_YX[row // height], u_NI[m])
            _float8_block(
                u_NI[: some_NI.shape[0]], code_OI, y_NO[n : n + TOGETHER], sum_N4L, row, stop
            )
        row = stop


@compiled
def _float8_block(u_NI, code_OI, y_NO, sum_N4L, start, stop):
    for o in range(start, stop, COLUMNS):
        may_be_nan = _float8_columns(u_NI, code_OI, y_NO, sum_N4L, o, stop - 1)
        for c in range(o, min(o + COLUMNS, stop)):
            unit = NAN if may_be_nan and _holds_nan(code_OI[c]) else HALF_UNIT
            for n in range(u_NI.shape[0]):
                y_NO[n, c] *= unit


@in_order
def _scaled(x_I, scale_X, out_I):
    for column in range(scale_X.size):
        part = slice(column * BLOCK, (column + 1) * BLOCK)
        _times(x_I[part], scale_X[column] * HALF_UNIT, out_I[part])


@in_order
def _times(x_I, scale, out_I):
    for i in range(x_I.size):
        out_I[i] = x_I[i] * scale


@compiled
def _holds_nan(code_I):
    found = False
    for i in range(code_I.size):
        found |= (code_I[i] & np.int8(0x7F)) == np.int8(0x7F)
    return found


@in_order
def float8_tile(code_OI, scale_YX, tile_OI, start, height):
    """Fill `tile_OI` with the rows of a weight from `start` on."""
    for o in range(tile_OI.shape[0]):
        codes_I, out_I = code_OI[start + o], tile_OI[o]
        scale_X = scale_YX[(start + o) // height]
        for column in range(scale_X.size):
            part = slice(column * BLOCK, (column + 1) * BLOCK)
            _decoded(codes_I[part], scale_X[column] * HALF_UNIT, out_I[part])
        if _holds_nan(codes_I):
            out_I[:] = NAN


@in_order
def _decoded(code_I, scale, out_I):
    for i in range(code_I.size):
        out_I[i] = _of_float8(code_I[i]) * HALF_UNIT * scale


@in_order
def bfloat16_tile(bits_OI, tile_OI, start):
    """Fill `tile_OI` with the rows of a weight from `start` on."""
    for o in range(tile_OI.shape[0]):
        bits_I, out_I = bits_OI[start + o], tile_OI[o]
        for i in range(bits_I.size):
            out_I[i] = _of_bfloat16(bits_I[i])
