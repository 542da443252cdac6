"""Products in a compute type: activations are rounded at every number of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization import matmul as stored
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.matmul import matmul
from tests.support.drawn import seeds
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
