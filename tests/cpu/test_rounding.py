"""Rounding to bfloat16: to the bit the nearest, ties to even, by numba and by NumPy."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.quantization.compute import round_activations
from tests.support.drawn import seeds
from tests.support.machine import needs_numba
from tests.support.rounding_oracle import nearest_bfloat16

INFINITY = 0x7F800000


def hard_numbers() -> np.ndarray:
    """Return ties, their neighbours, subnormal numbers and the largest, of both signs."""
    upper = np.r_[0, 1, 2, 0x7F, 0x80, 0x81, 0x3F80, 0x3F81, 0x7F7E, 0x7F7F].astype(np.uint32)
    lower = np.r_[0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].astype(np.uint32)
    bits = (upper[:, None] << 16 | lower).ravel()
    return np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)[None]


@pytest.fixture(params=["NumPy", pytest.param("compiled", marks=needs_numba)])
def rounding(request):
    if request.param == "NumPy":
        return round_activations
    return compiled_module("rounding").round_rows


def test_hard_numbers_are_rounded_to_the_bit(rounding):
    x_NI = hard_numbers()
    y_NI, expected_NI = rounding(x_NI, "bfloat16"), nearest_bfloat16(x_NI)
    np.testing.assert_array_equal(y_NI.view(np.uint32), expected_NI.view(np.uint32))
    assert np.isinf(y_NI).any()


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF])
def test_nan_stays_nan_and_infinity_infinite(rounding, bits):
    x_NI = np.array([[bits, INFINITY]], np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        assert np.isnan(rounding(x_NI, "bfloat16")[0, 0])
        np.testing.assert_array_equal(rounding(-x_NI, "bfloat16")[0, 1], -np.inf)


@given(seeds)
def test_rounded_twice_is_rounded_once(seed):
    generator = np.random.default_rng(seed)
    bits_NI = generator.integers(0, INFINITY, (3, 50), dtype=np.uint32)
    once_NI = round_activations(bits_NI.view(np.float32), "bfloat16")
    np.testing.assert_array_equal(round_activations(once_NI, "bfloat16"), once_NI)
    np.testing.assert_array_equal(once_NI, once_NI.astype(ml_dtypes.bfloat16))
