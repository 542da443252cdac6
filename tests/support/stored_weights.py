"""Hypothesis strategies for stored weights: FP8 blocks, bfloat16 or float32, any shape and code.

@given(stored_weights(), st.integers(1, 300), seeds)
def test_a_product_is_its_oracle(w, N, seed): ...
"""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash.quantization.fp8 import BLOCK, BlockScaled
from mimo_v2_flash.quantization.quantized_tensor import QuantizedTensor
from tests.support.drawn import seeds

NAN_CODES = np.array([0x7F, 0xFF], np.uint8)
FINITE_CODES = np.setdiff1d(np.arange(256, dtype=np.uint8), NAN_CODES)
NORMAL_CODES = FINITE_CODES[(FINITE_CODES & 0x78) != 0]
LINE = 64  # columns
KINDS = ["float8", "bfloat16", "float32"]
# Whole blocks, whole tiles, whole groups of four, and one more or less than each of them.
OUTPUTS = [1, 2, 3, 5, 64, 127, 128, 129, 255, 257, 391]
INPUTS = [1, 3, 31, 127, 128, 129, 300]
HEIGHTS = [1, 3, 64, 77, 128]


def random_codes(generator: np.random.Generator, outputs: int, inputs: int) -> np.ndarray:
    """Return finite codes: in some lines of columns of every kind, in others only normal ones."""
    code_OI = generator.choice(FINITE_CODES, (outputs, inputs))
    is_normal_I = np.repeat(generator.random(-(-inputs // LINE)) < 0.5, LINE)[:inputs]
    return np.where(is_normal_I, generator.choice(NORMAL_CODES, code_OI.shape), code_OI)


def random_float8(
    generator: np.random.Generator, outputs: int, inputs: int, height: int = BLOCK
) -> BlockScaled:
    """Return finite codes, subnormal and zero included, with scales far apart."""
    grid = (-(-outputs // height), -(-inputs // BLOCK))
    scale_YX = np.exp(generator.uniform(-4, 4, grid)).astype(np.float32)
    return BlockScaled(random_codes(generator, outputs, inputs), scale_YX, height)


def random_weight(
    generator: np.random.Generator, kind: str, outputs: int, inputs: int, height: int = BLOCK
) -> Any:
    """Return a random weight of a storage `kind`."""
    if kind == "float8":
        return random_float8(generator, outputs, inputs, height)
    dtype = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[kind]
    return generator.standard_normal((outputs, inputs), np.float32).astype(dtype)


def random_rows(generator: np.random.Generator, rows: int, inputs: int) -> np.ndarray:
    """Return `x_NI`, float32."""
    return generator.standard_normal((rows, inputs), np.float32)


@st.composite
def stored_weights(draw, kinds=KINDS) -> Any:
    """Draw a weight of any kind and shape."""
    return random_weight(
        np.random.default_rng(draw(seeds)),
        draw(st.sampled_from(kinds)),
        draw(st.sampled_from(OUTPUTS)),
        draw(st.sampled_from(INPUTS)),
        draw(st.sampled_from(HEIGHTS)),
    )


def widened(w: Any) -> np.ndarray:
    """Return `w` dequantised to float64."""
    return (w.dequantize() if isinstance(w, QuantizedTensor) else w).astype(np.float64)


def assert_is_product(
    y: np.ndarray, x: np.ndarray, w: Any, *, tolerance: float = 1e-6, atol: float = 0.0
) -> None:
    """Assert that `y` is float64's, to `tolerance` x the sum of the absolute products + `atol`."""
    wide_x, wide_w = x.astype(np.float64), np.swapaxes(widened(w), -1, -2)
    error = np.abs(y - wide_x @ wide_w)
    summed = np.abs(wide_x) @ np.abs(wide_w)
    assert y.dtype == np.float32
    assert np.all(error <= tolerance * summed + atol), np.max(error / np.maximum(summed, 1e-300))
