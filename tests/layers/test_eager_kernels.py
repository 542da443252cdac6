"""Eager mode's compiled norm, rotation and router are those of `kernels/`."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_router import moe_router
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.kernels.rope_partial import rope_partial, rope_table
from mimo_v2_flash.layers import eager_kernels
from mimo_v2_flash.layers.eager_kernels import eager_norm, eager_rotate, eager_router
from mimo_v2_flash.layers.eager_mode import EagerMode
from tests.support.drawn import floats, seeds, tensors
from tests.support.routed import layers

FUNCTIONS = ("norm", "rotate", "router")


@settings(deadline=None)
@given(tensors("x_ND", "weight_D"), st.integers(0, 5))
def test_norm_is_the_kernels(drawn, n):
    x_ND, weight_D = drawn
    y_ND = eager_norm(x_ND, weight_D, epsilon=1e-5)
    expected_ND = rmsnorm(x_ND, weight_D, epsilon=1e-5)
    assert y_ND.dtype == x_ND.dtype
    np.testing.assert_allclose(
        y_ND.astype(np.float32), expected_ND.astype(np.float32), rtol=1e-6, atol=1e-30
    )
    row = slice(n % len(x_ND), n % len(x_ND) + 1)
    np.testing.assert_array_equal(eager_norm(x_ND[row], weight_D, epsilon=1e-5), y_ND[row])


@settings(deadline=None)
@given(seeds, floats, st.integers(0, 4), st.integers(1, 3), st.integers(0, 9))
def test_rotation_is_the_kernels_to_the_bit(seed, dtype, N, R, rest):
    generator = np.random.default_rng(seed)
    x_NHQ = generator.standard_normal((N, 3, 2 * R + rest)).astype(dtype)
    position_N = generator.integers(-1, 50, N, dtype=np.int32)
    table = rope_table(length=50, rotary_dim=2 * R, theta=1e4)
    np.testing.assert_array_equal(
        eager_rotate(x_NHQ, position_N, *table), rope_partial(x_NHQ, position_N, *table)
    )


@settings(deadline=None)
@given(layers(), st.integers(1, 9), st.data())
def test_router_chooses_as_the_kernel(layer, A, data):
    """Logits are exact: ties and their order are the kernel's."""
    E, bias_E = len(layer.bias_E), layer.bias_E.copy()
    if data.draw(st.booleans()):
        bias_E[data.draw(st.integers(0, E - 1))] = data.draw(st.sampled_from([np.nan, -np.inf]))
    routing = {"experts_per_token": min(A, E), "scaling": 2.5}
    weight_NA, expert_NA = eager_router(layer.x_ND, layer.w_router_ED, bias_E, **routing)
    expected = moe_router(layer.x_ND, layer.w_router_ED, bias_E, **routing)
    np.testing.assert_allclose(weight_NA, expected[0], rtol=1e-6)
    np.testing.assert_array_equal(expert_NA, expected[1])
    assert (weight_NA.dtype, expert_NA.dtype) == (np.float32, np.int32)


def test_a_token_that_is_not_finite_has_no_weights_and_is_alone():
    generator = np.random.default_rng(0)
    x_ND, w_ED = (generator.standard_normal((n, 6), np.float32) for n in (4, 8))
    x_ND[1] = np.nan
    weight_NA, expert_NA = eager_router(
        x_ND, w_ED, np.zeros(8, np.float32), experts_per_token=3, scaling=1.0
    )
    assert np.isnan(weight_NA[1]).all()
    assert np.isfinite(np.delete(weight_NA, 1, 0)).all()
    assert ((expert_NA >= 0) & (expert_NA < 8)).all()


def test_eager_mode_is_compiled_for_float32_alone(monkeypatch):
    assert [getattr(EagerMode, name) for name in FUNCTIONS] == [
        eager_norm, eager_rotate, eager_router,
    ]  # fmt: skip

    def refuse(*_, **__):
        raise AssertionError("NumPy computed it")

    x_ND, ones_D = np.ones((2, 8), np.float32), np.ones(8, np.float32)
    table = rope_table(length=9, rotary_dim=4, theta=1e4)
    position_N, routing = np.array([3, 4], np.int32), {"experts_per_token": 2, "scaling": 1.0}

    def run(dtype):
        x = x_ND.astype(dtype)
        eager_norm(x, ones_D, epsilon=1e-5)
        eager_rotate(x[:, None], position_N, *table)
        eager_router(x, x_ND, ones_D[:2], **routing)

    run(np.float32)
    for name in ("rmsnorm", "rope_partial", "moe_router"):
        monkeypatch.setattr(eager_kernels, name, refuse)
    run(np.float32)
    with pytest.raises(AssertionError, match="NumPy computed it"):
        run(ml_dtypes.bfloat16)
    monkeypatch.setattr(eager_kernels, "compiled_module", lambda _: None)
    with pytest.raises(AssertionError, match="NumPy computed it"):
        run(np.float32)


def test_bad_arguments_are_named():
    x_ND, bias_E = np.ones((2, 8), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="axis D is 8"):
        eager_norm(x_ND, bias_E, epsilon=1e-5)
    table = rope_table(length=9, rotary_dim=10, theta=1e4)
    with pytest.raises(ValueError, match="width 8, expected at least 2R = 10"):
        eager_rotate(x_ND[:, None], np.zeros(2, np.int32), *table)
    with pytest.raises(ValueError, match="experts_per_token 4 is not"):
        eager_router(x_ND, np.ones((3, 8), np.float32), bias_E, experts_per_token=4, scaling=1.0)
