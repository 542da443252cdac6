"""Compiled CPU matmul of FP8, bfloat16 and float32 weights, decoded in registers or in the cache.

For up to some hundred rows of x a weight is read as stored and decoded in registers. For more rows,
tiles are decoded that stay in the cache, and BLAS multiplies them. A weight is never held in
float32 as a whole.

Source: E4M3 as float32 by one shift and one mask: sign, exponent and mantissa land in float32's
fields, 2^120 too small, subnormals included. docs/decisions/0011 has the figures.
"""

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mimo_v2_flash.quantization.fp8 import BLOCK, BlockScaled

from . import loops
from .blas import times_transposed
from .thread_pool import available_threads, parallel_for
from .tile import LANES, interleave_words

__all__ = ["product"]

MAX_REGISTER_ROWS = (
    512 if LANES == 16 else 48
)  # rows up to which decoding in registers is as fast as BLAS
TILE_ROWS = 256  # rows of a weight that are decoded at a time
MIN_WEIGHT_ELEMENTS = 1 << 15  # elements of a weight below which NumPy is as fast


class _Float8(NamedTuple):
    code_OI: np.ndarray
    scale_YX: np.ndarray
    height: int

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        loops.float8_rows(x_NI, self.code_OI, self.scale_YX, y_NO, start, end, self.height)

    def decode_rows(self, start: int, end: int) -> np.ndarray:
        tile_OI = np.empty((end - start, self.code_OI.shape[1]), np.float32)
        loops.float8_tile(self.code_OI, self.scale_YX, tile_OI, start, self.height)
        return tile_OI


class _BFloat16(NamedTuple):
    bits_OI: np.ndarray

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        loops.bfloat16_rows(x_NI, self.bits_OI, y_NO, start, end)

    def decode_rows(self, start: int, end: int) -> np.ndarray:
        tile_OI = np.empty((end - start, self.bits_OI.shape[1]), np.float32)
        loops.bfloat16_tile(self.bits_OI, tile_OI, start)
        return tile_OI


class _Float32(NamedTuple):
    w_OI: np.ndarray

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        loops.float32_rows(x_NI, self.w_OI, y_NO, start, end)

    def decode_rows(self, start: int, end: int) -> np.ndarray:
        return self.w_OI[start:end]


CompiledWeight = _Float8 | _BFloat16 | _Float32


def product(x: np.ndarray, w: Any) -> np.ndarray | None:
    """Return `x` times the transpose of `w`, float32, or None where plain NumPy is as fast.

    `x` is float32, its last axis as long as that of `w`: two axes each, or equal batch axes.
    """
    if x.ndim > 2:
        return _batched(x, w)
    if x.ndim != 2 or len(w.shape) != 2 or w.shape[0] * w.shape[1] < MIN_WEIGHT_ELEMENTS:
        return None
    weight = _compiled_weight(w)
    if weight is None:
        return None
    x_NI, y_NO = np.ascontiguousarray(x), np.empty((len(x), w.shape[0]), np.float32)
    (_decode_in_registers if len(x) <= MAX_REGISTER_ROWS else _decode_tiles)(x_NI, weight, y_NO)
    return y_NO


def _decode_in_registers(x_NI: np.ndarray, weight: CompiledWeight, y_NO: np.ndarray) -> None:
    """Fill `y_NO`, decoding in registers; several tasks for each thread balance the load."""
    x_NI, outputs = interleave_words(x_NI, weight[0].itemsize), y_NO.shape[1]
    tasks = 4 * available_threads() if available_threads() > 1 else 1
    step = -(-outputs // (tasks * BLOCK)) * BLOCK

    def task(index: int) -> None:
        weight.fill_columns(x_NI, y_NO, index * step, min((index + 1) * step, outputs))

    parallel_for(task, -(-outputs // step))


def _decode_tiles(x_NI: np.ndarray, weight: CompiledWeight, y_NO: np.ndarray) -> None:
    """Fill `y_NO`, decoding tiles that BLAS multiplies."""
    outputs = y_NO.shape[1]

    def task(index: int) -> None:
        start, end = index * TILE_ROWS, min((index + 1) * TILE_ROWS, outputs)
        times_transposed(x_NI, weight.decode_rows(start, end), out=y_NO[:, start:end])

    parallel_for(task, -(-outputs // TILE_ROWS))


def _batched(x: np.ndarray, w: Any) -> np.ndarray | None:
    """Return a matmul for each batch index, each on one thread: the heads of attention."""
    if x.shape[:-2] != w.shape[:-2] or getattr(w, "dtype", None) != np.float32:
        return None
    y = np.empty((*x.shape[:-1], w.shape[-2]), np.float32)
    if y.size < MIN_WEIGHT_ELEMENTS:
        return None
    indices = list(np.ndindex(*x.shape[:-2]))

    def task(index: int) -> None:
        batch = indices[index]
        times_transposed(x[batch], w[batch], out=y[batch])

    parallel_for(task, len(indices))
    return y


def _compiled_weight(w: Any) -> CompiledWeight | None:
    """Return `w` in the form of the compiled loops, or None if they cannot read it."""
    if isinstance(w, BlockScaled):
        code, scale = w.code.view(np.int8), np.ascontiguousarray(w.scale)
        if not _is_contiguous(code):
            return None
        return _Float8(_read_only(code), _read_only(scale), w.block_height)
    if not _is_contiguous(w):
        return None
    if w.dtype == ml_dtypes.bfloat16:
        return _BFloat16(_read_only(w.view(np.uint16)))
    return _Float32(_read_only(w)) if w.dtype == np.float32 else None


def _is_contiguous(array: np.ndarray) -> bool:
    return bool(array.flags.c_contiguous and array.flags.aligned)


def _read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only view: one compiled signature serves memory and mapped files."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
