"""Compiled loops of FP8 blocks, and a weight of such blocks as the loops read it.

Source: E4M3 as float32 by one shift and one mask: sign, exponent and mantissa land in float32's
fields, 2^120 too small, subnormals included. docs/decisions/0011 has the figures.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int8, intp

from .code_cache import compile_now
from .loops import OUTPUT, ROW_BLOCK, fill_columns, in_order, inlined, input_type, summed
from .matmul import CompiledWeight, is_contiguous, read_only
from .tile import COLUMNS, HALVES, LANES, ElementFormat, masked, splat, split_halves

__all__ = ["compiled_blocks", "float8_rows", "float8_tile"]

WIDTH = 128  # columns of a block
KEEP = np.int32(-0x78100000)  # sign, exponent and mantissa of a code shifted left by 20
HALF_UNIT = np.float32(2.0**60)  # a decoded code is 2^120 too small; two steps avoid overflow
NAN = np.float32(np.nan)


@inlined
def _decode_code(code):
    return np.int32((np.int32(code) << 20) & KEEP).view(np.float32)


def _decode_words(build: Any, words: Any) -> list[Any]:
    """Return codes as float32, 2^120 too small: sign, exponent and mantissa in float32's fields."""
    halves, four = build.bitcast(words, HALVES), splat(HALVES, 4)
    even = split_halves(build, build.ashr(build.shl(halves, splat(HALVES, 8)), four))
    odd = split_halves(build, build.ashr(halves, four))
    return [masked(build, word, 0x87F00000) for word in (even[0], odd[0], even[1], odd[1])]


FLOAT8 = ElementFormat(1, _decode_words, _decode_code, nan_code=0x7F)
_columns = fill_columns(FLOAT8)


@summed
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
            _fill_block(
                u_NI[: block_NI.shape[0]], code_OI, y_NO[n : n + ROW_BLOCK], sum_N4L, row, stop
            )
        row = stop


@summed
def _fill_block(u_NI, code_OI, y_NO, sum_N4L, start, stop):
    for o in range(start, stop, COLUMNS):
        may_be_nan = _columns(u_NI, code_OI, y_NO, sum_N4L, o, stop - 1)
        for c in range(o, min(o + COLUMNS, stop)):
            unit = NAN if may_be_nan and _holds_nan(code_OI[c]) else HALF_UNIT
            for n in range(u_NI.shape[0]):
                y_NO[n, c] *= unit


@in_order
def _scale_row(x_I, scale_X, out_I):
    for column in range(scale_X.size):
        part = slice(column * WIDTH, (column + 1) * WIDTH)
        _scale_block(x_I[part], scale_X[column] * HALF_UNIT, out_I[part])


@in_order
def _scale_block(x_I, scale, out_I):
    for i in range(x_I.size):
        out_I[i] = x_I[i] * scale


@summed
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
            part = slice(column * WIDTH, (column + 1) * WIDTH)
            _decode_block(code_I[part], scale_X[column] * HALF_UNIT, out_I[part])
        if _holds_nan(code_I):
            out_I[:] = NAN


@in_order
def _decode_block(code_I, scale, out_I):
    for i in range(code_I.size):
        out_I[i] = _decode_code(code_I[i]) * HALF_UNIT * scale


X, CODES = input_type(float32), input_type(int8)
compile_now(float8_rows, X, CODES, X, OUTPUT, intp, intp, intp)
compile_now(float8_tile, CODES, X, OUTPUT, intp, intp)


class _Float8(NamedTuple):
    code_OI: np.ndarray
    scale_YX: np.ndarray
    height: int
    itemsize: int = 1

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        float8_rows(x_NI, self.code_OI, self.scale_YX, y_NO, start, end, self.height)

    def decode_rows(self, start: int, end: int) -> np.ndarray:
        tile_OI = np.empty((end - start, self.code_OI.shape[1]), np.float32)
        float8_tile(self.code_OI, self.scale_YX, tile_OI, start, self.height)
        return tile_OI


def compiled_blocks(
    code_OI: np.ndarray, scale_YX: np.ndarray, height: int
) -> CompiledWeight | None:
    """Return a weight of FP8 blocks as the compiled loops read it, or None if they cannot."""
    code_OI, scale_YX = code_OI.view(np.int8), np.ascontiguousarray(scale_YX)
    if not is_contiguous(code_OI):
        return None
    return _Float8(read_only(code_OI), read_only(scale_YX), height)
