"""Compiled loops of FP8 blocks, and a weight of such blocks as the loops read it.

A code's exponent and mantissa land in float32's fields by a shift and a mask, and three more bits
make the exponent one of normal numbers, 2^8 too small. That is exact but for the subnormal codes,
whose mantissa has no leading one: t = c (1/2 + m/16) stands for c m/8, which is 2 t - c and less
than t; all other codes have t <= 2 t - c. So min(t, 2 t - c) decodes every code, and nothing on the
way is subnormal: threads that flush subnormal numbers to zero get the same product.

Source: E4M3 of arXiv:2209.05433, table 1. docs/decisions/0011 and 0023 have the figures.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray, float32, int8, intp

from .code_cache import compile_now
from .loading import compiled_module
from .loops import OUTPUT, ROW_BLOCK, fill_columns, in_order, inlined, input_type, summed
from .matmul import CompiledWeight, is_contiguous, read_only
from .panel import FLOAT32_PANEL, PanelKind
from .panel_product import PACKER_TYPES, function_address, rows_packer
from .tile import (
    COLUMNS,
    HALVES,
    LANES,
    SUMS,
    WORDS,
    ElementFormat,
    masked,
    pointer,
    splat,
    split_halves,
)

__all__ = ["blocks_packer", "compiled_blocks", "float8_packer", "float8_rows", "float8_values"]

WIDTH = 128  # columns of a block
SIGN, MAGNITUDE = 0x80000000, 0x07F00000  # of a code shifted left by 20, without bits in between
BIAS = 0x38000000  # 112, OR-ed to an exponent of at most 15
SMALLEST = np.float32(2.0**-14)  # c: the smallest normal code, decoded
NORMAL = range(0x08, 0x7F)  # codes without their signs that are neither subnormal, zero nor NaN
UNIT = np.float32(2.0**8)  # a decoded code is too small by this factor
SCALES = np.array([2.0**-64, 2.0**64], np.float32).view(np.int32)  # beyond, x times a scale may
# overflow, or be subnormal, where the product with the weight is not
NAN = np.float32(np.nan)


@inlined
def _decode_code(code):
    word = np.int64(code) << 20
    t = np.uint32((word & MAGNITUDE) | BIAS).view(np.float32)
    value = np.float32(min(t, np.float32(2) * t - SMALLEST))
    return np.uint32(np.int64(value.view(np.uint32)) | (word & SIGN)).view(np.float32)


def _shift_words(build: Any, words: Any) -> list[Any]:
    """Return codes as words with the sign at bit 31 and the magnitude from bit 20 on."""
    halves, four = build.bitcast(words, HALVES), splat(HALVES, 4)
    even = split_halves(build, build.ashr(build.shl(halves, splat(HALVES, 8)), four))
    odd = split_halves(build, build.ashr(halves, four))
    return [even[0], odd[0], even[1], odd[1]]


def _decode_normal_words(build: Any, words: Any) -> list[Any]:
    return [masked(build, word, SIGN | MAGNITUDE, BIAS) for word in _shift_words(build, words)]


def _decode_words(build: Any, words: Any) -> list[Any]:
    return [_decode_word(build, word) for word in _shift_words(build, words)]


def _decode_word(build: Any, word: Any) -> Any:
    t = masked(build, word, MAGNITUDE, BIAS)
    doubled = build.fsub(build.fadd(t, t), splat(SUMS, float(SMALLEST)))
    value = build.select(build.fcmp_ordered("<", t, doubled), t, doubled)
    sign = build.and_(word, splat(WORDS, SIGN))
    return build.bitcast(build.or_(build.bitcast(value, WORDS), sign), SUMS)


FLOAT8 = ElementFormat(1, _decode_words, _decode_code, _decode_normal_words, NORMAL, nan_code=0x7F)
_columns = fill_columns(FLOAT8)


@summed
def float8_rows(x_NI, code_OI, scale_YX, y_NO, start, end, height):
    """Fill columns `start` to `end` of `y_NO`; the scales of a block row multiply x, once."""
    u_NI = np.empty((min(x_NI.shape[0], ROW_BLOCK), x_NI.shape[1]), np.float32)
    sum_N4 = np.empty((ROW_BLOCK, COLUMNS), np.float32)
    row = start
    while row < end:
        stop = min((row // height + 1) * height, end)
        for n in range(0, x_NI.shape[0], ROW_BLOCK):
            block_NI = x_NI[n : n + ROW_BLOCK]
            for m in range(block_NI.shape[0]):
                _scale_row(block_NI[m], scale_YX[row // height], u_NI[m])
            _fill_block(
                u_NI[: block_NI.shape[0]], code_OI, y_NO[n : n + ROW_BLOCK], sum_N4, row, stop
            )
        row = stop


@inlined
def _fill_block(u_NI, code_OI, y_NO, sum_N4, start, stop):
    for o in range(start, stop, COLUMNS):
        if _columns(u_NI, code_OI, y_NO, sum_N4, o, stop - 1):
            for c in range(o, min(o + COLUMNS, stop)):
                if _holds_nan(code_OI[c]):
                    y_NO[:, c] = NAN


@in_order
def _scale_row(x_I, scale_X, out_I):
    for column in range(scale_X.size):
        part = slice(column * WIDTH, (column + 1) * WIDTH)
        _scale_block(x_I[part], scale_X[column] * UNIT, out_I[part])


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
def float8_values(code_OI, scale_YX, height, value_OI):
    """Fill `value_OI` with decoded codes times their scales, rounded once."""
    for o in range(code_OI.shape[0]):
        for i in range(code_OI.shape[1]):
            code = code_OI[o, i]
            value = _decode_code(code) * UNIT * scale_YX[o // height, i // WIDTH]
            value_OI[o, i] = NAN if code & np.int8(0x7F) == np.int8(0x7F) else value


def blocks_packer(kind: PanelKind) -> Any:
    """Return the loop that packs `LANES` rows of codes and their scales."""
    pack_rows, chunk = rows_packer(FLOAT8, kind), kind.chunk

    @inlined
    def pack(code, scale, height, outputs, inputs, o, start, stop, target):
        pack_rows(code, outputs, inputs, o, start, stop, target)
        first, end, row = start // WIDTH, (stop + WIDTH - 1) // WIDTH, o // height
        grid = ((outputs + height - 1) // height, (inputs + WIDTH - 1) // WIDTH)
        scale_YX = carray(pointer(scale), grid, float32)
        panel_XW = carray(pointer(target), (end - first, chunk), float32)
        for lane in range(LANES):
            if min(o + lane, outputs - 1) >= (row + 1) * height:
                row += 1
            for column in range(end - first):
                panel_XW[column, lane] = scale_YX[row, first + column] * UNIT

    return pack


_pack_blocks = blocks_packer(FLOAT32_PANEL)


@in_order
def float8_packer(code, scale, height, outputs, inputs, o, start, stop, target):
    """Pack rows of codes into float32 panels, as `CompiledWeight.packer` says."""
    _pack_blocks(code, scale, height, outputs, inputs, o, start, stop, target)


X, CODES = input_type(float32), input_type(int8)
compile_now(float8_rows, X, CODES, X, OUTPUT, intp, intp, intp)
compile_now(float8_packer, *PACKER_TYPES)
compile_now(float8_values, CODES, X, intp, OUTPUT)
PACKER = function_address(float8_packer)


class _Float8(NamedTuple):
    code_OI: np.ndarray
    scale_YX: np.ndarray
    height: int
    itemsize: int = 1

    @property
    def address(self) -> tuple[int, ...]:
        return self.code_OI.ctypes.data, self.scale_YX.ctypes.data, self.height

    @property
    def expert_loop(self) -> Any:
        loops = compiled_module("fp8_experts")
        return loops and loops.float8_experts

    def float32_rows(self, rows: slice) -> np.ndarray:
        """Return rows of the weight, which begin with a block, in float32."""
        code_OI = self.code_OI[rows]
        value_OI = np.empty(code_OI.shape, np.float32)
        float8_values(code_OI, self.scale_YX[rows.start // self.height :], self.height, value_OI)
        return value_OI

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        float8_rows(x_NI, self.code_OI, self.scale_YX, y_NO, start, end, self.height)

    @property
    def packer(self) -> int:
        return PACKER

    @property
    def bfloat16_packer(self) -> int:
        module = compiled_module("bfloat16_panels")
        return module.FLOAT8_PACKER if module else 0


def compiled_blocks(
    code_OI: np.ndarray, scale_YX: np.ndarray, height: int
) -> CompiledWeight | None:
    """Return a weight of FP8 blocks as the compiled loops read it, or None if they cannot."""
    code_OI, scale_YX = code_OI.view(np.int8), np.ascontiguousarray(scale_YX)
    bits_YX, (smallest, largest) = scale_YX.view(np.int32), SCALES
    are_usual = (bits_YX == 0) | ((bits_YX >= smallest) & (bits_YX <= largest))
    if not (is_contiguous(code_OI) and are_usual.all()):
        return None
    return _Float8(read_only(code_OI), read_only(scale_YX), height)
