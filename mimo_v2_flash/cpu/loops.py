"""Numba loops of `compiled_matmul`: weights are decoded in registers, next to their sums.

Numba compiles them for the machine that runs them and caches the code on disk; no instruction set
is assumed.

Source: numba's nopython mode; register blocking of four rows of x by four of w.
"""

import numpy as np
from numba import njit

from mimo_v2_flash.quantization.fp8 import BLOCK

from .tile import BFLOAT16, COLUMNS, FLOAT8, FLOAT32, LANES, LINE, tile

__all__ = ["bfloat16_rows", "bfloat16_tile", "float8_rows", "float8_tile", "float32_rows"]

INNER = "720cfb0bef19a402"  # digest of compiled_tile.py, whose changes numba's cache does not see
KEEP = np.int32(-0x78100000)  # sign, exponent and mantissa of a code shifted left by 20
HALF_UNIT = np.float32(2.0**60)  # a decoded code is 2^120 too small; two steps avoid overflow
NAN = np.float32(np.nan)
ROW_BLOCK = 8  # rows of x for each pass over a block of columns: they stay in a core's cache
in_order = njit(nogil=True, cache=True)
compiled = njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})  # sums
inlined = njit(inline="always")


@inlined
def _decode_float8(code):
    return np.int32((np.int32(code) << 20) & KEEP).view(np.float32)


@inlined
def _decode_bfloat16(bits):
    return np.uint32(np.uint32(bits) << 16).view(np.float32)


@inlined
def _decode_float32(value):
    return value


def _columns(element_format, decode):
    """Return the loop that fills four columns of y; it returns whether a code may be NaN."""
    sum_tiles, step = _sum_tiles(element_format), LINE // element_format.size

    @compiled
    def columns(x_NI, w_OI, y_NO, sum_N4L, o, last):
        end = w_OI.shape[1] // step * step
        may_be_nan = end > 0 and sum_tiles(x_NI, w_OI, sum_N4L, o, last, end)
        for n in range(x_NI.shape[0]):
            for column in range(min(COLUMNS, last - o + 1)):
                total = _total(sum_N4L[n, column]) if end > 0 else np.float32(0)
                for i in range(end, w_OI.shape[1]):
                    total += x_NI[n, i] * decode(w_OI[o + column, i])
                y_NO[n, o + column] = total
        return may_be_nan or end < w_OI.shape[1]

    return columns


def _sum_tiles(element_format):
    """Return the loop over rows of x, four at a time, that fills `sum_N4L`."""
    one, two, three, four = (tile(element_format, rows) for rows in (1, 2, 3, 4))

    @compiled
    def sum_tiles(x_NI, w_OI, sum_N4L, o, last, end):
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

    return sum_tiles


@compiled
def _total(sum_L):
    total = np.float32(0)
    for lane in range(LANES):
        total += sum_L[lane]
    return total


def _rows(columns):
    """Return the loop over blocks of columns and of `ROW_BLOCK` rows of x."""

    @compiled
    def rows(x_NI, w_OI, y_NO, start, end):
        sum_N4L = np.empty((ROW_BLOCK, COLUMNS, LANES), np.float32)
        for row in range(start, end, BLOCK):
            stop = min(row + BLOCK, end)
            for n in range(0, x_NI.shape[0], ROW_BLOCK):
                block = slice(n, n + ROW_BLOCK)
                for o in range(row, stop, COLUMNS):
                    columns(x_NI[block], w_OI, y_NO[block], sum_N4L, o, stop - 1)

    return rows


_float8_columns = _columns(FLOAT8, _decode_float8)
_bfloat16_rows = _rows(_columns(BFLOAT16, _decode_bfloat16))
_float32_rows = _rows(_columns(FLOAT32, _decode_float32))


@compiled
def bfloat16_rows(x_NI, bits_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO` from a weight's bfloat16 bits."""
    _bfloat16_rows(x_NI, bits_OI, y_NO, start, end)


@compiled
def float32_rows(x_NI, w_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO` from a float32 weight."""
    _float32_rows(x_NI, w_OI, y_NO, start, end)


@compiled
def float8_rows(x_NI, code_OI, scale_YX, y_NO, start, end, height):
    """Fill columns `start` to `end` of `y_NO`; the scales of a block row multiply x, once."""
    u_NI = np.empty((min(x_NI.shape[0], ROW_BLOCK), x_NI.shape[1]), np.float32)
    sum_N4L = np.empty((ROW_BLOCK, COLUMNS, LANES), np.float32)
    row = start
    while row < end:
        stop = min((row // height + 1) * height, end)
        for n in range(0, x_NI.shape[0], ROW_BLOCK):
            block_NI = x_NI[n : n + ROW_BLOCK]
            for m in range(block_NI.shape[0]):
                _scale_row(block_NI[m], scale_YX[row // height], u_NI[m])
            _float8_block(
                u_NI[: block_NI.shape[0]], code_OI, y_NO[n : n + ROW_BLOCK], sum_N4L, row, stop
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
def _scale_row(x_I, scale_X, out_I):
    for column in range(scale_X.size):
        part = slice(column * BLOCK, (column + 1) * BLOCK)
        _scale_block(x_I[part], scale_X[column] * HALF_UNIT, out_I[part])


@in_order
def _scale_block(x_I, scale, out_I):
    for i in range(x_I.size):
        out_I[i] = x_I[i] * scale


@compiled
def _holds_nan(code_I):
    has_nan = False
    for i in range(code_I.size):
        has_nan |= (code_I[i] & np.int8(0x7F)) == np.int8(0x7F)
    return has_nan


@in_order
def float8_tile(code_OI, scale_YX, tile_OI, start, height):
    """Fill `tile_OI` with the decoded rows of an FP8 weight from `start` on."""
    for o in range(tile_OI.shape[0]):
        code_I, out_I = code_OI[start + o], tile_OI[o]
        scale_X = scale_YX[(start + o) // height]
        for column in range(scale_X.size):
            part = slice(column * BLOCK, (column + 1) * BLOCK)
            _decode_block(code_I[part], scale_X[column] * HALF_UNIT, out_I[part])
        if _holds_nan(code_I):
            out_I[:] = NAN


@in_order
def _decode_block(code_I, scale, out_I):
    for i in range(code_I.size):
        out_I[i] = _decode_float8(code_I[i]) * HALF_UNIT * scale


@in_order
def bfloat16_tile(bits_OI, tile_OI, start):
    """Fill `tile_OI` with the widened rows of a bfloat16 weight from `start` on."""
    for o in range(tile_OI.shape[0]):
        bits_I, out_I = bits_OI[start + o], tile_OI[o]
        for i in range(bits_I.size):
            out_I[i] = _decode_bfloat16(bits_I[i])
