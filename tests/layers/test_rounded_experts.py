"""Experts in a compute type: tokens and hidden channels are rounded, whoever computes them."""

import numpy as np
import pytest
from hypothesis import given, settings

from mimo_v2_flash.checkpoint.params import DenseWeights, ExpertWeights
from mimo_v2_flash.kernels.dense_ffn import dense_ffn
from mimo_v2_flash.layers import eager_experts as module
from mimo_v2_flash.layers.eager_experts import MAX_TOKENS, eager_experts
from mimo_v2_flash.quantization import matmul as stored
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight
from tests.support.chosen_experts import ChosenExperts, chosen_experts, random_step
from tests.support.machine import needs_numba
from tests.support.rounding_oracle import assert_is_rounded_step, rounded_expert
from tests.support.stored_weights import KINDS

ROWS = [1, 8, 9, 10, 63, 64, 512]
kinds = pytest.mark.parametrize("kind", KINDS)


def rounding(record) -> DenseWeights:
    """Return the weights of an expert, whose products round their activations."""
    return DenseWeights(*(ActivationQuantizedWeight(w, "bfloat16") for w in record))


def computed(step: ChosenExperts) -> np.ndarray:
    return eager_experts(*step[:3], ExpertWeights.of(map(rounding, step.experts)))


@pytest.fixture(params=["compiled", "NumPy"])
def multiplier(request, monkeypatch) -> None:
    if request.param == "NumPy":
        for part in (stored, module):
            monkeypatch.setattr(part, "compiled_module", lambda _: None)


@kinds
@pytest.mark.parametrize("N", ROWS)
def test_experts_round_their_tokens_and_hidden_channels(multiplier, kind, N):
    step = random_step(N, [kind] * 3, N=N, A=2, D=129, F=67)
    assert_is_rounded_step(computed(step), step)
    exact_ND = eager_experts(*step)
    with pytest.raises(AssertionError):
        assert_is_rounded_step(exact_ND, step)


@settings(max_examples=30, deadline=None)
@given(chosen_experts())
def test_any_experts_are_their_oracle(step):
    assert_is_rounded_step(computed(step), step)


@needs_numba
@kinds
def test_few_tokens_are_a_compiled_call_still(monkeypatch, kind):
    monkeypatch.setattr(module, "grouped_experts", None)
    step = random_step(0, [kind] * 3, N=MAX_TOKENS, A=2, D=129, F=67)
    assert_is_rounded_step(computed(step), step)


@needs_numba
@kinds
def test_a_token_is_to_the_bit_what_it_is_alone(kind):
    step = random_step(0, [kind] * 4, N=9, A=2, D=129, F=67)
    together_ND = computed(step)
    for n in range(9):
        alone = ChosenExperts(*(part[n : n + 1] for part in step[:3]), step.experts)
        np.testing.assert_array_equal(computed(alone), together_ND[n : n + 1])


def test_experts_that_round_and_others_are_computed_each_its_way():
    step = random_step(0, ["float8"] * 4, N=9, A=2, D=129, F=67)
    first, *others = step.experts
    mixed_ND = eager_experts(*step[:3], ExpertWeights.of([rounding(first), *others]))
    is_first_N = (step.expert_NA == 0).any(axis=1)
    expected_ND = np.where(is_first_N[:, None], mixed_ND, eager_experts(*step))
    np.testing.assert_array_equal(mixed_ND, expected_ND)
    alone_NA = np.where(step.expert_NA == 0, step.expert_NA, np.int32(7))
    of_first = step._replace(expert_NA=alone_NA)
    of_others = step._replace(expert_NA=np.where(step.expert_NA == 0, np.int32(7), step.expert_NA))
    rest_ND = mixed_ND - eager_experts(*of_others)
    np.testing.assert_allclose(rest_ND, computed(of_first), atol=1e-5 * np.abs(mixed_ND).max())


@kinds
@pytest.mark.parametrize("N", ROWS)
def test_a_dense_network_rounds_its_tokens_and_hidden_channels(multiplier, kind, N):
    step = random_step(N, [kind], N=N, A=1, D=129, F=67)
    y_ND = dense_ffn(step.x_ND, *rounding(step.experts[0]), token_block=100)
    expected_ND, allowed_ND = rounded_expert(step.x_ND, *step.experts[0])
    assert np.all(np.abs(y_ND - expected_ND) <= allowed_ND)
