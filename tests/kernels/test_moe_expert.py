"""Tests of moe_expert: one expert, masked experts, and experts with a capacity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.kernels.moe_expert import capacity_experts, masked_experts, moe_expert
from mimo_v2_flash.quantization.fp8 import quantize
from mimo_v2_flash.reference import moe_expert as oracle
from tests.support import transformers_experts as transformers
from tests.support.agreement import assert_agrees
from tests.support.drawn import floats, seeds, tensors
from tests.support.kinds import every_kind, host_kinds
from tests.support.mistakes import mistakes
from tests.support.routed import layers, random_choices, random_layer, summed

ONE = {
    "x_ND": np.ones((2, 4), np.float32),
    "w_gate_FD": np.ones((3, 4), np.float32),
    "w_up_FD": np.ones((3, 4), np.float32),
    "w_down_DF": np.ones((4, 3), np.float32),
}
SEVERAL = {
    "x_ND": np.ones((2, 4), np.float32),
    "weight_NA": np.ones((2, 2), np.float32),
    "expert_NA": np.zeros((2, 2), np.int32),
}
STACKS = {
    "w_gate_eFD": np.ones((5, 3, 4), np.float32),
    "w_up_eFD": np.ones((5, 3, 4), np.float32),
    "w_down_eDF": np.ones((5, 4, 3), np.float32),
}
EXPERTS = ExpertWeights(**STACKS)


def scalar_expert(gate: float, up: float) -> float:
    """Return the output of an expert with one hidden channel, for weights `gate` and `up`."""
    w_gate_11, w_up_11, one_11 = (np.full((1, 1), w, np.float32) for w in (gate, up, 1))
    return moe_expert(one_11, w_gate_11, w_up_11, one_11).item()


@every_kind
@given(tensors("x_ND", "w_gate_FD", "w_up_FD", "w_down_DF"), floats)
def test_an_expert_is_its_oracle(on, drawn, weights_dtype):
    x_ND, *weights = drawn
    weights = [w.astype(weights_dtype) for w in weights]
    y_ND = on(moe_expert)(x_ND, *weights)
    assert y_ND.dtype == np.float32
    # Hidden activations are rounded to the tokens' dtype, which sets the tolerance.
    expected_ND = oracle.moe_expert(x_ND, *weights)
    assert_agrees(y_ND.astype(x_ND.dtype), expected_ND, scale=summed(x_ND, *weights))


@every_kind
@given(layers(), st.integers(1, 4), seeds)
def test_experts_are_their_oracle(on, layer, A, seed):
    E = len(layer.bias_E)
    # Two ids beyond either end of the local experts.
    weight_NA, expert_NA = random_choices(
        np.random.default_rng(seed), N=len(layer.x_ND), A=A, E=E + 4
    )
    tokens = layer.x_ND, weight_NA, expert_NA - np.int32(2)
    y_ND = on(masked_experts)(*tokens, layer.experts)
    assert y_ND.dtype == np.float32
    expected_ND = oracle.masked_experts(*tokens, *layer[4:])
    assert_agrees(y_ND.astype(layer.x_ND.dtype), expected_ND, scale=summed(layer.x_ND, *layer[4:]))


@every_kind
@pytest.mark.parametrize("options", [{}, {"capacity": 5}], ids=["masked", "capacity"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_bad_expert_is_seen_by_the_tokens_that_chose_it_alone(on, options, wrong):
    """0 x NaN is NaN: an expert that a token did not choose adds nothing, not zero times it."""
    layer = random_layer(N=6, E=3, F=2)
    expert_NA = np.array([[0, 2], [0, 2], [1, 0], [2, 0], [-1, 2], [2, 4]], np.int32)
    tokens = layer.x_ND, np.full((6, 2), 0.5, np.float32), expert_NA
    kernel = on(capacity_experts)
    expected_ND = kernel(*tokens, layer.experts, **options)
    layer.w_down_EDF[1] = wrong
    with np.errstate(invalid="ignore"):
        y_ND = kernel(*tokens, layer.experts, **options)
    assert not np.isfinite(y_ND[2]).any()
    np.testing.assert_array_equal(np.delete(y_ND, 2, axis=0), np.delete(expected_ND, 2, axis=0))


@every_kind
@given(layers(), st.integers(1, 4), st.integers(1, 9), seeds)
def test_seated_experts_answer_the_first_tokens_that_chose_them(on, layer, A, capacity, seed):
    N, E = len(layer.x_ND), len(layer.bias_E)
    weight_NA, expert_NA = random_choices(np.random.default_rng(seed), N=N, A=A, E=E + 4)
    expert_NA -= np.int32(2)
    y_ND = on(capacity_experts)(layer.x_ND, weight_NA, expert_NA, layer.experts, capacity=capacity)
    assert y_ND.dtype == np.float32
    for expert in range(E):
        beyond = np.flatnonzero((expert_NA == expert).any(axis=1))[capacity:]
        expert_NA[beyond] = np.where(expert_NA[beyond] == expert, -1, expert_NA[beyond])
    expected_ND = oracle.masked_experts(layer.x_ND, weight_NA, expert_NA, *layer[4:])
    assert_agrees(y_ND.astype(layer.x_ND.dtype), expected_ND, scale=summed(layer.x_ND, *layer[4:]))


@pytest.mark.parametrize("E", [1, 8])
def test_experts_are_transformers(E):
    torch = pytest.importorskip("torch")
    layer = random_layer(N=9, E=E, F=5)
    weight_NA, expert_NA = random_choices(np.random.default_rng(0), N=9, A=min(E, 3), E=E)
    with torch.no_grad():
        expected_ND = transformers.experts(layer)(
            torch.tensor(layer.x_ND), torch.tensor(expert_NA).long(), torch.tensor(weight_NA)
        )
    y_ND = masked_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    assert_agrees(y_ND, expected_ND.numpy(), scale=summed(layer.x_ND, *layer[4:]))


@pytest.mark.parametrize("gate", [-1000.0, -80.0, -1.0, 0.0, 1.0, 80.0, 1000.0])
def test_a_gate_opens_smoothly_and_never_overflows(gate):
    expected = 3 * gate / (1 + np.exp(-np.float64(gate))) if gate > -700 else 0
    assert scalar_expert(gate, 3.0) == pytest.approx(expected, rel=1e-6, abs=1e-37)


def test_gate_and_up_are_not_the_same():
    assert scalar_expert(-100.0, 1.0) == pytest.approx(0, abs=1e-40)
    assert scalar_expert(1.0, -100.0) == pytest.approx(-73.10586)


@given(layers(), seeds)
def test_a_weight_weighs_its_expert(layer, seed):
    weight_NA, expert_NA = random_choices(
        np.random.default_rng(seed), N=len(layer.x_ND), A=1, E=len(layer.bias_E)
    )
    once_ND = masked_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    fourfold_ND = masked_experts(layer.x_ND, weight_NA * 4, expert_NA, layer.experts)
    np.testing.assert_array_equal(fourfold_ND, once_ND * 4)


@every_kind
@pytest.mark.parametrize("expert", [-8, -1, 5, 8])
def test_an_expert_of_another_rank_is_not_answered(on, expert):
    tensors = SEVERAL | {"expert_NA": np.full((2, 2), expert, np.int32)}
    assert not on(masked_experts)(**tensors, experts=EXPERTS).any()


def test_tokens_do_not_meet():
    layer = random_layer(N=3)
    weight_NA, expert_NA = random_choices(np.random.default_rng(0), N=3, A=2, E=8)
    before_ND = masked_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    layer.x_ND[2] = 100
    after_ND = masked_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    np.testing.assert_array_equal(before_ND[:2], after_ND[:2])


@host_kinds
def test_fp8_experts_answer_as_what_they_decode_to(on):
    generator = np.random.default_rng(0)
    x_ND, *weights = (
        generator.standard_normal(shape).astype(np.float32)
        for shape in ((4, 130), (3, 130), (3, 130), (130, 3))
    )
    stored = [quantize(w) for w in weights]
    decoded = [w.dequantize() for w in stored]
    y_ND = on(moe_expert)(x_ND, *stored)
    assert_agrees(y_ND, moe_expert(x_ND, *decoded), scale=summed(x_ND, *decoded))


@pytest.mark.parametrize(("name", "wrong"), mistakes(**ONE))
def test_a_mistaken_argument_of_one_expert_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"moe_expert: .*\b{name}\b"):
        moe_expert(**(ONE | {name: wrong}))


@pytest.mark.parametrize("kernel", [masked_experts, capacity_experts])
@pytest.mark.parametrize(("name", "wrong"), mistakes(**SEVERAL))
def test_a_mistaken_argument_of_several_experts_is_named(kernel, name, wrong):
    message = rf"({kernel.__name__}|moe_expert): .*\b{name}\b"
    with pytest.raises(ValueError, match=message):
        kernel(**(SEVERAL | {name: wrong}), experts=EXPERTS)


@pytest.mark.parametrize("kernel", [masked_experts, capacity_experts])
@pytest.mark.parametrize(("name", "wrong"), mistakes(**STACKS))
def test_a_mistaken_matrix_of_several_experts_is_named(kernel, name, wrong):
    with pytest.raises(ValueError, match=rf"moe_expert: .*\b{name.replace('_e', '_')}\b|equals"):
        kernel(**SEVERAL, experts=ExpertWeights(**(STACKS | {name: wrong})))
