"""LayerNorm from its oracle to its traced proof: the file of docs/tutorials/kernel.md."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.axes import checked
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from tests.support.agreement import assert_agrees
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

SHAPES = (("x_ND", (6, 4)), ("weight_D", (4,)), ("bias_D", (4,)))
ONES = {name: np.ones(shape, np.float32) for name, shape in SHAPES}


def oracle(x_ND, weight_D, bias_D, *, epsilon):
    """Return y_d = (x_d - mean) / sqrt(variance + epsilon) * weight_d + bias_d, token by token."""
    y_ND = np.empty(x_ND.shape)
    for n, token in enumerate(x_ND):
        x = [float(value) for value in token]
        mean = math.fsum(x) / len(x)
        variance = math.fsum((value - mean) ** 2 for value in x) / len(x)
        for d, value in enumerate(x):
            unit = (value - mean) / math.sqrt(variance + epsilon)
            y_ND[n, d] = unit * float(weight_D[d]) + float(bias_D[d])
    return y_ND


@checked
def layernorm(x_ND, weight_D, bias_D, *, epsilon: float):
    """Return `x_ND` at mean 0 and variance 1, times `weight_D`, plus `bias_D`, in its dtype."""
    wide_ND = x_ND.astype(np.float32)
    centred_ND = wide_ND - np.mean(wide_ND, axis=-1, keepdims=True)
    power_N1 = np.mean(np.square(centred_ND), axis=-1, keepdims=True)
    unit_ND = centred_ND / np.sqrt(power_N1 + np.float32(epsilon))
    return (unit_ND * weight_D.astype(np.float32) + bias_D.astype(np.float32)).astype(x_ND.dtype)


@every_kind
@given(tensors("x_ND", "weight_D", "bias_D", D=st.integers(8, 16)), st.sampled_from([1e-5, 1.0]))
def test_it_is_its_oracle(on, drawn, epsilon):
    assert_agrees(on(layernorm)(*drawn, epsilon=epsilon), oracle(*drawn, epsilon=epsilon))


def test_a_fault_is_seen():
    x_ND = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = oracle(x_ND, np.ones(4), np.zeros(4), epsilon=1e-5)
    with pytest.raises(AssertionError):
        assert_agrees(rmsnorm(x_ND, np.ones(4, np.float32), epsilon=1e-5), expected)


@pytest.mark.parametrize(("name", "wrong"), mistakes(**ONES))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"layernorm: .*\b{name}\b"):
        layernorm(**(ONES | {name: wrong}), epsilon=1e-5)
