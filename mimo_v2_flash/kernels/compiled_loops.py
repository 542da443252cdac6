"""The loops of `compiled_matmul`: weights decoded beside the sums that they enter.

Compiled by numba for the machine that runs them, and kept on disk; no instruction set is assumed.

Source: numba's nopython mode; register blocking of two rows of x by four of w.
"""

import numpy as np
from numba import njit

from .block_scale import BLOCK

__all__ = ["bfloat16_rows", "bfloat16_tile", "float8_rows", "float8_tile", "float32_rows"]

KEEP = np.int32(-0x78100000)  # sign, exponent and mantissa of a code shifted left by 20
HALF_UNIT = np.float32(2.0**60)  # a decoded code is 2^120 too small; in two steps none overflows
NAN = np.float32(np.nan)
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


def _four_by_two(decoded):
    """Return the loop that fills four columns of two rows; past `last`, the last one again."""

    @compiled
    def four_by_two(u_I, v_I, w_OI, y_NO, n, m, o, last):
        o1, o2, o3 = min(o + 1, last), min(o + 2, last), min(o + 3, last)
        w0_I, w1_I, w2_I, w3_I = w_OI[o], w_OI[o1], w_OI[o2], w_OI[o3]
        a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
        for i in range(u_I.size):
            u, v = u_I[i], v_I[i]
            w0, w1, w2, w3 = decoded(w0_I[i]), decoded(w1_I[i]), decoded(w2_I[i]), decoded(w3_I[i])
            a0 += u * w0
            a1 += u * w1
            a2 += u * w2
            a3 += u * w3
            b0 += v * w0
            b1 += v * w1
            b2 += v * w2
            b3 += v * w3
        y_NO[n, o], y_NO[n, o1], y_NO[n, o2], y_NO[n, o3] = a0, a1, a2, a3
        y_NO[m, o], y_NO[m, o1], y_NO[m, o2], y_NO[m, o3] = b0, b1, b2, b3

    return four_by_two


_float8_four_by_two = _four_by_two(_of_float8)
_bfloat16_four_by_two = _four_by_two(_of_bfloat16)
_float32_four_by_two = _four_by_two(_of_float32)


@compiled
def bfloat16_rows(x_NI, bits_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO`, two rows of x at a time."""
    for n in range(0, x_NI.shape[0], 2):
        m = min(n + 1, x_NI.shape[0] - 1)
        for o in range(start, end, 4):
            _bfloat16_four_by_two(x_NI[n], x_NI[m], bits_OI, y_NO, n, m, o, end - 1)


@compiled
def float32_rows(x_NI, w_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO`, two rows of x at a time."""
    for n in range(0, x_NI.shape[0], 2):
        m = min(n + 1, x_NI.shape[0] - 1)
        for o in range(start, end, 4):
            _float32_four_by_two(x_NI[n], x_NI[m], w_OI, y_NO, n, m, o, end - 1)


@compiled
def float8_rows(x_NI, code_OI, scale_YX, y_NO, start, end, height):
    """Fill columns `start` to `end` of `y_NO`: the scales of a block row go into x, once."""
    N, row = x_NI.shape[0], start
    u_I, v_I = np.empty_like(x_NI[0]), np.empty_like(x_NI[0])
    while row < end:
        stop = min((row // height + 1) * height, end)
        for n in range(0, N, 2):
            m = min(n + 1, N - 1)
            _scaled(x_NI[n], scale_YX[row // height], u_I)
            _scaled(x_NI[m], scale_YX[row // height], v_I)
            for o in range(row, stop, 4):
                _float8_four_by_two(u_I, v_I, code_OI, y_NO, n, m, o, stop - 1)
        for o in range(row, stop):
            unit = NAN if _holds_nan(code_OI[o]) else HALF_UNIT
            for n in range(N):
                y_NO[n, o] *= unit
        row = stop


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
