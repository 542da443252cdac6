"""The product with a stored weight on a CPU: compiled where there are loops for it, else by NumPy.

Source: docs/decisions/0011 (numba) and 0017 (formats).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mimo_v2_flash.cpu.blas import times_transposed
from mimo_v2_flash.cpu.loading import compiled_module

from .compute import ActivationQuantizedWeight, round_activations, stored_weight

if TYPE_CHECKING:
    from mimo_v2_flash.cpu.matmul import CompiledWeight

    from .quantized_tensor import QuantizedTensor

__all__ = ["compiled_weight", "matmul", "plain_matmul"]

MIN_ELEMENTS = 1 << 15  # elements of an array or a batched product below which NumPy is as fast
TILE_ELEMENTS = (
    1 << 19
)  # elements of a weight converted to float32 at a time: 2 MiB, a core's cache


def matmul(
    x: np.ndarray, w: np.ndarray | QuantizedTensor | ActivationQuantizedWeight
) -> np.ndarray:
    """Return float32 `x` [..., I] times the transpose of `w` [..., O, I], float32.

    Parameters
    ----------
    x
        Its last axis is as long as that of `w`; batch axes broadcast.
    w
        A float32 or bfloat16 array, or a `QuantizedTensor`; or an `ActivationQuantizedWeight` of
        one of them, before whose product `x` is rounded.
    """
    w, compute = stored_weight(w)
    loops = compiled_module("matmul") if w.shape[-1] else None
    if loops is not None and x.ndim == len(w.shape) == 2:
        is_small = isinstance(w, np.ndarray) and w.size < MIN_ELEMENTS
        weight = None if is_small else compiled_weight(w)
        if weight is not None:
            return loops.product(x, weight, w.shape[0], compute)
    x = round_activations(x, compute)
    if loops is not None and _is_large_batch(x, w):
        return loops.batch_product(x, w)
    return plain_matmul(x, w)


def _is_large_batch(x: np.ndarray, w: np.ndarray | QuantizedTensor) -> bool:
    """Return whether threads may share the products of equal batch axes."""
    is_batch = x.ndim > 2 and x.shape[:-2] == w.shape[:-2]
    size = x.size // x.shape[-1] * w.shape[-2]
    return is_batch and size >= MIN_ELEMENTS and getattr(w, "dtype", None) == np.float32


def compiled_weight(w: np.ndarray | QuantizedTensor) -> CompiledWeight | None:
    """Return a weight [O, I] as the compiled loops read it, or None if they cannot."""
    if not isinstance(w, np.ndarray):
        return w.compiled
    loops = compiled_module("floats")
    return loops and loops.compiled_array(w)


def plain_matmul(x: np.ndarray, w: Any) -> np.ndarray:
    """Return `matmul` by NumPy alone, a tile of `w` at a time."""
    if getattr(w, "dtype", None) == np.float32:
        return times_transposed(x, w)
    batch, outputs = np.broadcast_shapes(x.shape[:-2], w.shape[:-2]), w.shape[-2]
    y = np.empty((*batch, *x.shape[-2:-1], outputs), np.float32)
    height = max(1, TILE_ELEMENTS * outputs // max(1, prod(w.shape)))
    for start in range(0, outputs, height):
        rows = slice(start, start + height)
        times_transposed(x, _widened(w, rows), out=y[..., rows])
    return y


def _widened(w: np.ndarray | QuantizedTensor, rows: slice) -> np.ndarray:
    """Return `rows` of `w` in float32."""
    if isinstance(w, np.ndarray):
        return w[..., rows, :].astype(np.float32)
    return w.dequantize(rows)
