"""Products in a compute type: activations are rounded at every number of rows."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization import matmul as stored
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight, round_activations
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.matmul import matmul
from tests.support.drawn import seeds
from tests.support.machine import needs_numba
from tests.support.rounding_oracle import nearest_bfloat16
from tests.support.stored_weights import (
    KINDS,
    assert_is_product,
    random_rows,
    random_weight,
    stored_weights,
)

ROWS = [1, 8, 9, 10, 63, 64, 512]
INFINITY = 0x7F800000


@pytest.fixture(params=["compiled", "NumPy"])
def multiplier(request, monkeypatch) -> str:
    if request.param == "NumPy":
        monkeypatch.setattr(stored, "compiled_module", lambda _: None)
    return request.param


@pytest.mark.parametrize("N", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_rounded_activations(multiplier, kind, N):
    generator = np.random.default_rng(N)
    w, x_NI = random_weight(generator, kind, 200, 260), random_rows(generator, N, 260)
    y_NO = ops.matmul(x_NI, ActivationQuantizedWeight(w, "bfloat16"))
    assert_is_product(y_NO, nearest_bfloat16(x_NI), w)
    np.testing.assert_array_equal(
        ops.matmul(x_NI, ActivationQuantizedWeight(w, "float32")), ops.matmul(x_NI, w)
    )


@settings(max_examples=40)
@given(stored_weights(), st.integers(1, 80), seeds)
def test_any_weight_is_multiplied_so(w, N, seed):
    x_NI = random_rows(np.random.default_rng(seed), N, w.shape[1])
    assert_is_product(
        matmul(x_NI, ActivationQuantizedWeight(w, "bfloat16")), nearest_bfloat16(x_NI), w
    )


def test_one_of_a_stack_has_its_compute_type():
    generator = np.random.default_rng(0)
    stack = BlockScaled.stack([random_weight(generator, "float8", 200, 260) for _ in range(3)])
    x_NI, wrapped = random_rows(generator, 2, 260), ActivationQuantizedWeight(stack, "bfloat16")
    assert wrapped.shape == (3, 200, 260)
    assert_is_product(matmul(x_NI, wrapped[1]), nearest_bfloat16(x_NI), stack[1])
    assert wrapped[1:].shape == (2, 200, 260)


def hard_numbers() -> np.ndarray:
    """Return ties, their neighbours, subnormal numbers and the largest, of both signs."""
    upper = np.r_[0, 1, 2, 0x7F, 0x80, 0x81, 0x3F80, 0x3F81, 0x7F7E, 0x7F7F].astype(np.uint32)
    lower = np.r_[0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF].astype(np.uint32)
    bits = (upper[:, None] << 16 | lower).ravel()
    return np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)[None]


@pytest.fixture(params=["compiled", "NumPy"])
def rounding(request):
    if request.param == "NumPy":
        return round_activations
    return pytest.importorskip("mimo_v2_flash.cpu.rounding").round_rows


@needs_numba
def test_numba_rounds_where_it_can_be_used():
    assert compiled_module("rounding") is not None


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
