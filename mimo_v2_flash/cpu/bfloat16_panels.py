"""Panels of pairs of bfloat16, for products of many rows that are rounded to bfloat16.

A bfloat16 unit adds two products to a float32 sum in one instruction; without one the same is
computed in float32. FP8 codes without their scales, and bfloat16 weights, are exact in a panel.

The unit takes subnormal numbers for zero, activations below 2^-126 among them. No FP8 code is one:
they decode to normal numbers.

Source: Intel, Architecture Instruction Set Extensions, VDPBF16PS; docs/decisions/0042.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, intp, types, uint16, uint32
from numba.core import cgutils

from .bfloat16_unit import has_vector_unit, is_permitted
from .code_cache import compile_now
from .floats import BFLOAT16
from .fp8 import blocks_packer
from .loading import compiled_module
from .loops import in_order, input_type
from .panel import PanelKind
from .panel_product import (
    PACKER_TYPES,
    PANEL_TYPES,
    fill_ones,
    function_address,
    panel_loop,
    rows_packer,
)
from .rounding import nearest_bfloat16
from .thread_pool import parallel_for
from .tile import LANES, SUMS, WORDS, fused, masked, splat, split_halves

__all__ = ["bfloat16_packer", "bfloat16_panels", "float8_packer", "prepare", "rounded_pairs"]

TASK_ROWS, MIN_SHARED_ELEMENTS = 32, 1 << 17  # of x, below which one thread is as fast
UPPER, HALF, QUIET = 0xFFFF0000, np.uint32(16), np.uint32(0x40)  # QUIET: of NaN, not of infinity


def _pack_pair(build: Any, values: list[Any]) -> Any:
    """Return words of the upper halves of two vectors, which are bfloat16."""
    even, odd = (build.bitcast(value, WORDS) for value in values)
    upper = build.and_(odd, splat(WORDS, UPPER))
    return build.or_(upper, build.lshr(even, splat(WORDS, 16)))


def _add_in_unit(build: Any, sums: Any, x: Any, w: Any) -> Any:
    signature = ir.FunctionType(SUMS, (SUMS, WORDS, WORDS))
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    return build.call(cgutils.get_or_insert_function(build.module, signature, name), (sums, x, w))


def _add_in_float32(build: Any, sums: Any, x: Any, w: Any) -> Any:
    x_halves, w_halves = split_halves(build, x), split_halves(build, w)
    for x_half, w_half in zip(x_halves, w_halves, strict=True):
        sums = fused(build, masked(build, x_half, UPPER), masked(build, w_half, UPPER), sums)
    return sums


UNIT_PANEL, EMULATED_PANEL = (
    PanelKind(2, _pack_pair, add) for add in (_add_in_unit, _add_in_float32)
)
BFLOAT16_PANEL = UNIT_PANEL if LANES == 16 and has_vector_unit() else EMULATED_PANEL
_bfloat16_loop = panel_loop(BFLOAT16_PANEL)
_pack_blocks = blocks_packer(BFLOAT16_PANEL)
_pack_rows, _fill_ones = rows_packer(BFLOAT16, BFLOAT16_PANEL), fill_ones(BFLOAT16_PANEL)


@in_order
def bfloat16_panels(pair_NW, pack, address, y_NO, start, end, panel_W, inputs):
    """Fill columns `start` to `end` of `y_NO` from a weight's panels and `rounded_pairs` of x."""
    _bfloat16_loop(pair_NW, pack, address, inputs, y_NO, start, end, panel_W)


@in_order
def float8_packer(code, scale, height, outputs, inputs, o, start, stop, target):
    """Pack rows of codes into panels of pairs, as `CompiledWeight.packer` says."""
    _pack_blocks(code, scale, height, outputs, inputs, o, start, stop, target)


@in_order
def bfloat16_packer(bits, _, __, outputs, inputs, o, start, stop, target):
    """Pack rows of bfloat16 into panels of pairs, as `CompiledWeight.packer` says."""
    _pack_rows(bits, outputs, inputs, o, start, stop, target)
    _fill_ones(start, stop, target)


@in_order
def _fill_halves(x_NI, half_NI, start, stop):
    """Fill rows of `half_NI` with the bits of x as bfloat16, and a zero where there is no x."""
    inputs = x_NI.shape[1]
    half_NI[start:stop, inputs:] = np.uint16(0)
    for n in range(start, stop):
        for i in range(inputs):
            bits = np.float32(nearest_bfloat16(x_NI[n, i])).view(np.uint32) >> HALF
            half_NI[n, i] = bits | QUIET if np.isnan(x_NI[n, i]) else bits


compile_now(bfloat16_panels, input_type(uint32), *PANEL_TYPES, intp)
compile_now(float8_packer, *PACKER_TYPES)
compile_now(bfloat16_packer, *PACKER_TYPES)
compile_now(_fill_halves, input_type(float32), types.Array(uint16, 2, "C"), intp, intp)
FLOAT8_PACKER, BFLOAT16_PACKER = map(function_address, (float8_packer, bfloat16_packer))


def prepare(x_NI: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return the loop that multiplies, of the matrix unit where there is one, and its x."""
    if matrix := compiled_module("matrix_panels") if is_permitted() else None:
        return matrix.matrix_panels, rounded_pairs(x_NI, matrix.ROWS, matrix.ROWS)
    return bfloat16_panels, rounded_pairs(x_NI)


def rounded_pairs(x_NI: np.ndarray, rows: int = 1, words: int = 1) -> np.ndarray:
    """Return rows rounded to bfloat16, two inputs in a word: the first in its lower half.

    Behind them are as many rows of any content, and words of zeros, as fill up multiples.
    """
    N, inputs = x_NI.shape
    shape = -(-N // rows) * rows, -(-inputs // (2 * words)) * 2 * words
    half_NI = np.empty(shape, np.uint16)
    step = TASK_ROWS if x_NI.size >= MIN_SHARED_ELEMENTS else N

    def fill(task: int) -> None:
        _fill_halves(x_NI, half_NI, task * step, min((task + 1) * step, N))

    parallel_for(fill, -(-N // step))
    return half_NI.view(np.uint32)
