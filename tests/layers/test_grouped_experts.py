"""Grouped experts: equal to `masked_experts`, with no superfluous multiply-add or weight read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.kernels.moe_expert import masked_experts
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.quantization.fp8 import BlockScaled, quantize
from mimo_v2_flash.reference import moe_expert as oracle
from tests.support import transformers_experts as transformers
from tests.support.agreement import assert_agrees
from tests.support.counting import counted
from tests.support.drawn import seeds
from tests.support.routed import layers, random_choices, random_layer, summed


class RecordedExperts:
    """Experts that record which of them were read; they are no stack and no list."""

    def __init__(self, experts) -> None:
        self.read: list[int] = []
        self._experts = experts

    def __len__(self) -> int:
        return len(self._experts)

    def __getitem__(self, expert):
        self.read.append(int(expert))
        return self._experts[int(expert)]


def choices(layer, *, A: int, E: int, seed=0) -> tuple[np.ndarray, np.ndarray]:
    return random_choices(np.random.default_rng(seed), N=len(layer.x_ND), A=A, E=E)


@given(layers(), st.integers(1, 4), seeds)
def test_it_is_its_oracle_and_the_masked_kernel(layer, A, seed):
    # Two ids beyond either end of the local experts.
    weight_NA, expert_NA = choices(layer, A=A, E=len(layer.bias_E) + 4, seed=seed)
    tokens = layer.x_ND, weight_NA, expert_NA - np.int32(2)
    y_ND, scale = grouped_experts(*tokens, layer.experts), summed(layer.x_ND, *layer[4:])
    assert y_ND.dtype == np.float32
    expected_ND = oracle.masked_experts(*tokens, *layer[4:])
    assert_agrees(y_ND.astype(layer.x_ND.dtype), expected_ND, scale=scale)
    assert_agrees(y_ND, masked_experts(*tokens, layer.experts), scale=scale)


def test_it_is_transformers():
    torch = pytest.importorskip("torch")
    layer = random_layer(N=20, F=5)
    weight_NA, expert_NA = choices(layer, A=3, E=8)
    with torch.no_grad():
        expected_ND = transformers.experts(layer)(
            torch.tensor(layer.x_ND), torch.tensor(expert_NA).long(), torch.tensor(weight_NA)
        )
    y_ND = grouped_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    assert_agrees(y_ND, expected_ND.numpy(), scale=summed(layer.x_ND, *layer[4:]))


@given(layers(), st.integers(1, 4), seeds)
def test_a_chosen_expert_is_read_once_and_no_other_is(layer, A, seed):
    E = len(layer.bias_E)
    weight_NA, expert_NA = choices(layer, A=min(A, E), E=E, seed=seed)
    recorded = RecordedExperts(layer.experts)
    grouped_experts(layer.x_ND, weight_NA, expert_NA, recorded)
    assert sorted(recorded.read) == sorted({*expert_NA.ravel().tolist()})


@given(layers(), st.integers(1, 4), seeds)
def test_an_expert_computes_its_own_tokens_alone(layer, A, seed):
    E, F, D = layer.w_gate_EFD.shape
    weight_NA, expert_NA = choices(layer, A=min(A, E), E=E, seed=seed)
    with counted() as cost:
        grouped_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    assert cost.matmuls == 3 * len(np.unique(expert_NA))
    assert cost.multiply_adds == 3 * expert_NA.size * D * F


def test_nothing_of_the_weights_is_copied():
    layer = random_layer(N=4, E=64, F=512)
    weight_NA, expert_NA = choices(layer, A=8, E=64)
    with counted() as cost:
        grouped_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    assert cost.peak_bytes < layer.w_gate_EFD.nbytes / 8


def test_experts_may_be_a_list_of_single_tensors():
    layer = random_layer()
    weight_NA, expert_NA = choices(layer, A=3, E=8)
    stacked_ND = grouped_experts(layer.x_ND, weight_NA, expert_NA, layer.experts)
    listed_ND = grouped_experts(
        layer.x_ND, weight_NA, expert_NA, ExpertWeights(*map(tuple, layer[4:]))
    )
    np.testing.assert_array_equal(stacked_ND, listed_ND)


def test_fp8_experts_may_be_stacked_or_listed():
    layer = random_layer(E=3)
    weight_NA, expert_NA = choices(layer, A=2, E=3)
    listed = ExpertWeights(*(tuple(quantize(w) for w in weights) for weights in layer[4:]))
    stacked = ExpertWeights(*map(BlockScaled.stack, listed.columns))
    outputs = [grouped_experts(layer.x_ND, weight_NA, expert_NA, w) for w in (listed, stacked)]
    np.testing.assert_array_equal(*outputs)
    assert outputs[0].any()


@pytest.mark.parametrize("expert", [-3, -1, 8, 9])
def test_an_expert_of_another_rank_is_not_answered(expert):
    layer = random_layer(N=2)
    expert_NA = np.array([[expert, 3], [expert, expert]], np.int32)
    y_ND = grouped_experts(layer.x_ND, np.ones((2, 2), np.float32), expert_NA, layer.experts)
    assert y_ND[0].any()
    assert not y_ND[1].any()


def test_a_step_that_nobody_here_is_asked_reads_nothing():
    layer = random_layer(N=2)
    recorded = RecordedExperts(layer.experts)
    y_ND = grouped_experts(
        layer.x_ND, np.ones((2, 1), np.float32), np.full((2, 1), 8, np.int32), recorded
    )
    assert not y_ND.any()
    assert not recorded.read
