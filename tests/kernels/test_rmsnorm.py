"""Tests of rmsnorm: against its reference and transformers, and its properties."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.reference import rmsnorm as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

EPSILON = 1e-5
GOOD = {"x_ND": np.ones((6, 4), np.float32), "weight_D": np.ones(4, np.float32)}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@every_kind
@given(tensors("x_ND", "weight_D"), st.sampled_from([1e-6, 1e-5, 1e-2, 1.0]))
def test_it_is_its_oracle(on, drawn, epsilon):
    actual = on(rmsnorm)(*drawn, epsilon=epsilon)
    assert actual.dtype == drawn[0].dtype
    assert_agrees(actual, oracle.rmsnorm(*drawn, epsilon=epsilon))


def test_it_is_transformers():
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.mimo_v2_flash.modeling_mimo_v2_flash")
    x_ND, weight_D = normal(10, 96), normal(96)
    norm = modeling.MiMoV2FlashRMSNorm(96, eps=EPSILON)
    norm.weight.data = torch.tensor(weight_D)
    assert_agrees(
        rmsnorm(x_ND, weight_D, epsilon=EPSILON), norm(torch.tensor(x_ND)).detach().numpy()
    )


def test_epsilon_is_what_was_asked_for():
    x_ND = np.full((1, 8), 1e-3, np.float32)
    for epsilon in (1e-5, 1e-6):
        expected = 1e-3 / np.sqrt(1e-6 + epsilon)
        np.testing.assert_allclose(
            rmsnorm(x_ND, np.ones(8, np.float32), epsilon=epsilon), expected, rtol=1e-5
        )


def test_the_mean_is_not_subtracted():
    y_ND = rmsnorm(np.full((1, 8), 3, np.float32), np.ones(8, np.float32), epsilon=EPSILON)
    np.testing.assert_allclose(y_ND, 1, rtol=1e-5)


def test_a_zero_token_stays_zero():
    assert not rmsnorm(np.zeros((2, 8), np.float32), normal(8), epsilon=EPSILON).any()


def test_tokens_do_not_meet():
    x_ND = normal(6, 8)
    before = rmsnorm(x_ND, np.ones(8, np.float32), epsilon=EPSILON)
    x_ND[5] = 100
    after = rmsnorm(x_ND, np.ones(8, np.float32), epsilon=EPSILON)
    np.testing.assert_array_equal(before[:5], after[:5])


def test_a_wide_bfloat16_sum_does_not_stall():
    # A bfloat16 sum of ones stops growing at 256.
    x_ND = np.ones((1, 4096), ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rmsnorm(x_ND, x_ND[0], epsilon=EPSILON), x_ND)


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"rmsnorm: .*\b{name}\b"):
        rmsnorm(**(GOOD | {name: wrong}), epsilon=EPSILON)
