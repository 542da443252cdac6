"""Compiled rounding of activations to the nearest bfloat16, ties to even.

Integers do it: neither a rounding mode nor flushing of subnormals changes it. NaN stays NaN.

Source: `quantization/compute.py` is the plain statement.
"""

import numpy as np
from numba import float32

from .code_cache import compile_now
from .loops import OUTPUT, in_order, inlined, input_type

__all__ = ["nearest_bfloat16", "round_rows"]

UPPER, HALF, MAGNITUDE, INFINITY = (
    np.uint32(bits) for bits in (0xFFFF0000, 0x7FFF, 0x7FFFFFFF, 0x7F800000)
)


@inlined
def nearest_bfloat16(value):
    """Return the bfloat16 that is nearest to a float32, as float32."""
    bits = np.float32(value).view(np.uint32)
    nearest = np.uint32((bits + HALF + ((bits >> np.uint32(16)) & np.uint32(1))) & UPPER)
    return nearest.view(np.float32) if bits & MAGNITUDE <= INFINITY else value


@in_order
def _bfloat16_rows(x_NI, y_NI):
    for n in range(x_NI.shape[0]):
        for i in range(x_NI.shape[1]):
            y_NI[n, i] = nearest_bfloat16(x_NI[n, i])


compile_now(_bfloat16_rows, input_type(float32), OUTPUT)


def round_rows(x_NI: np.ndarray, compute: str) -> np.ndarray:
    """Return contiguous float32 rows rounded as a compute type says: themselves for float32."""
    if compute != "bfloat16":
        return x_NI
    y_NI = np.empty_like(x_NI)
    _bfloat16_rows(x_NI, y_NI)
    return y_NI
