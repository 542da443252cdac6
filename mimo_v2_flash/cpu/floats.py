"""Compiled loops of plain weights, bfloat16 and float32, and the weights as the loops read them."""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numba import float32, intp, uint16

from .code_cache import compile_now
from .loading import compiled_module
from .loops import OUTPUT, in_order, inlined, input_type, rows_loop, summed
from .matmul import CompiledWeight, is_contiguous, read_only
from .panel import FLOAT32_PANEL
from .panel_product import PACKER_TYPES, fill_ones, function_address, rows_packer
from .tile import SUMS, ElementFormat, masked, split_halves

__all__ = [
    "bfloat16_packer", "bfloat16_rows", "compiled_array", "float32_packer", "float32_rows",
]  # fmt: skip


@inlined
def _decode_bfloat16(bits):
    return np.uint32(np.uint32(bits) << 16).view(np.float32)


@inlined
def _decode_float32(value):
    return value


def _decode_halves(build: Any, words: Any) -> list[Any]:
    return [masked(build, half, 0xFFFF0000) for half in split_halves(build, words)]


BFLOAT16 = ElementFormat(2, _decode_halves, _decode_bfloat16)
FLOAT32 = ElementFormat(4, lambda build, words: [build.bitcast(words, SUMS)], _decode_float32)
_bfloat16_rows = rows_loop(BFLOAT16)
_float32_rows = rows_loop(FLOAT32)
_pack_bfloat16, _pack_float32 = (rows_packer(kind, FLOAT32_PANEL) for kind in (BFLOAT16, FLOAT32))
_fill_ones = fill_ones(FLOAT32_PANEL)


@summed
def bfloat16_rows(x_NI, bits_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO` from a weight's bfloat16 bits."""
    _bfloat16_rows(x_NI, bits_OI, y_NO, start, end)


@summed
def float32_rows(x_NI, w_OI, y_NO, start, end):
    """Fill columns `start` to `end` of `y_NO` from a float32 weight."""
    _float32_rows(x_NI, w_OI, y_NO, start, end)


@in_order
def bfloat16_packer(bits, _, __, outputs, inputs, o, start, stop, target):
    """Pack rows of bfloat16 into float32 panels, as `CompiledWeight.packer` says."""
    _pack_bfloat16(bits, outputs, inputs, o, start, stop, target)
    _fill_ones(start, stop, target)


@in_order
def float32_packer(w, _, __, outputs, inputs, o, start, stop, target):
    """Pack rows of float32 into panels, as `CompiledWeight.packer` says."""
    _pack_float32(w, outputs, inputs, o, start, stop, target)
    _fill_ones(start, stop, target)


X, BITS = input_type(float32), input_type(uint16)
compile_now(bfloat16_rows, X, BITS, OUTPUT, intp, intp)
compile_now(float32_rows, X, X, OUTPUT, intp, intp)
compile_now(bfloat16_packer, *PACKER_TYPES)
compile_now(float32_packer, *PACKER_TYPES)
BFLOAT16_PACKER, FLOAT32_PACKER = map(function_address, (bfloat16_packer, float32_packer))


class _BFloat16(NamedTuple):
    bits_OI: np.ndarray
    itemsize: int = 2

    @property
    def address(self) -> tuple[int, ...]:
        return self.bits_OI.ctypes.data, 0, 0

    @property
    def expert_loop(self) -> Any:
        loops = compiled_module("float_experts")
        return loops and loops.bfloat16_experts

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        bfloat16_rows(x_NI, self.bits_OI, y_NO, start, end)

    @property
    def packer(self) -> int:
        return BFLOAT16_PACKER

    @property
    def bfloat16_packer(self) -> int:
        module = compiled_module("bfloat16_panels")
        return module.BFLOAT16_PACKER if module else 0


class _Float32(NamedTuple):
    w_OI: np.ndarray
    itemsize: int = 4

    @property
    def address(self) -> tuple[int, ...]:
        return self.w_OI.ctypes.data, 0, 0

    @property
    def expert_loop(self) -> Any:
        loops = compiled_module("float_experts")
        return loops and loops.float32_experts

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        float32_rows(x_NI, self.w_OI, y_NO, start, end)

    @property
    def packer(self) -> int:
        return FLOAT32_PACKER

    @property
    def bfloat16_packer(self) -> int:
        return 0


def compiled_array(w_OI: np.ndarray) -> CompiledWeight | None:
    """Return a plain weight as the compiled loops read it, or None if they cannot."""
    if not is_contiguous(w_OI):
        return None
    if w_OI.dtype == np.float32:
        return _Float32(read_only(w_OI))
    return _BFloat16(read_only(w_OI.view(np.uint16))) if w_OI.dtype == ml_dtypes.bfloat16 else None
