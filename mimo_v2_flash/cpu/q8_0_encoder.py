"""Compiled quantization into ggml's Q8_0.

Source: `quantization/q8_0.py` is the plain statement, and equal to the bit.
"""

import numpy as np
from numba import float32, types, uint8

from .code_cache import compile_now
from .loops import in_order, input_type

__all__ = ["encode"]

ZERO, HALF, ONE = map(np.float32, (0, 0.5, 1))
SMALLEST = np.float32(2.0**-126)
BYTES, NUMBERS = types.Array(uint8, 2, "C"), types.Array(float32, 1, "C")


@in_order
def _fill(w_NC, block_NB, scale_N):
    for n in range(w_NC.shape[0]):
        largest = ZERO
        for c in range(32):
            largest = max(largest, abs(w_NC[n, c]))
        scale_N[n] = largest / np.float32(127)
        unit = ONE / scale_N[n] if scale_N[n] >= SMALLEST else ZERO
        for c in range(32):
            exact = abs(w_NC[n, c] * unit)
            rounded = np.floor(exact)
            rounded = rounded + (ONE if exact - rounded >= HALF else ZERO)
            code = np.int32(-rounded if w_NC[n, c] < ZERO else rounded)
            block_NB[n, 2 + c] = np.uint8(code & np.int32(255))


compile_now(_fill, input_type(float32), BYTES, NUMBERS)


def encode(w_NC: np.ndarray) -> np.ndarray:
    """Return the bytes [N, 34] of float32 values [N, 32]."""
    block_NB, scale_N = np.empty((len(w_NC), 34), np.uint8), np.empty(len(w_NC), np.float32)
    _fill(np.ascontiguousarray(w_NC), block_NB, scale_N)
    block_NB[:, :2] = scale_N.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return block_NB
