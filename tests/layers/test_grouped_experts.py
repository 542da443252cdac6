"""Grouped experts: equal to `masked_experts`, with no superfluous multiply-add or weight read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_expert import masked_experts
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.quantization.fp8 import BlockScaled, quantize
from mimo_v2_flash.reference import moe_expert as oracle
from tests.support import transformers_experts as transformers
from tests.support.agreement import assert_agrees
from tests.support.counting import counted
from tests.support.drawn import seeds
from tests.support.routed import layers, random_choices, random_layer, summed


class RecordedWeights:
    """Expert weights that record which experts were read; they cannot be read as one array."""

    def __init__(self, w_EFD) -> None:
        self.read: list[int] = []
        self._w_EFD = w_EFD

    def __len__(self) -> int:
        return len(self._w_EFD)

    def __getitem__(self, expert):
        self.read.append(int(expert))
        return self._w_EFD[int(expert)]


def choices(layer, *, A: int, E: int, seed=0) -> tuple[np.ndarray, np.ndarray]:
    return random_choices(np.random.default_rng(seed), N=len(layer.x_ND), A=A, E=E)


@given(layers(), st.integers(1, 4), seeds)
def test_it_is_its_oracle_and_the_masked_kernel(layer, A, seed):
    # Two ids beyond either end of the local experts.
    weight_NA, expert_NA = choices(layer, A=A, E=len(layer.bias_E) + 4, seed=seed)
    arguments = layer.x_ND, weight_NA, expert_NA - np.int32(2), *layer[4:]
    y_ND, scale = grouped_experts(*arguments), summed(layer.x_ND, *layer[4:])
    assert y_ND.dtype == np.float32
    assert_agrees(y_ND.astype(layer.x_ND.dtype), oracle.masked_experts(*arguments), scale=scale)
    assert_agrees(y_ND, masked_experts(*arguments), scale=scale)


def test_it_is_transformers():
    torch = pytest.importorskip("torch")
    layer = random_layer(N=20, F=5)
    weight_NA, expert_NA = choices(layer, A=3, E=8)
    with torch.no_grad():
        expected_ND = transformers.experts(layer)(
            torch.tensor(layer.x_ND), torch.tensor(expert_NA).long(), torch.tensor(weight_NA)
        )
    y_ND = grouped_experts(layer.x_ND, weight_NA, expert_NA, *layer[4:])
    assert_agrees(y_ND, expected_ND.numpy(), scale=summed(layer.x_ND, *layer[4:]))


@given(layers(), st.integers(1, 4), seeds)
def test_a_chosen_expert_is_read_once_and_no_other_is(layer, A, seed):
    E = len(layer.bias_E)
    weight_NA, expert_NA = choices(layer, A=min(A, E), E=E, seed=seed)
    recorded = [RecordedWeights(w) for w in layer[4:]]
    grouped_experts(layer.x_ND, weight_NA, expert_NA, *recorded)
    for weights in recorded:
        assert sorted(weights.read) == sorted({*expert_NA.ravel().tolist()})


@given(layers(), st.integers(1, 4), seeds)
def test_an_expert_computes_its_own_tokens_alone(layer, A, seed):
    E, F, D = layer.w_gate_EFD.shape
    weight_NA, expert_NA = choices(layer, A=min(A, E), E=E, seed=seed)
    with counted() as cost:
        grouped_experts(layer.x_ND, weight_NA, expert_NA, *layer[4:])
    assert cost.matmuls == 3 * len(np.unique(expert_NA))
    assert cost.multiply_adds == 3 * expert_NA.size * D * F


def test_nothing_of_the_weights_is_copied():
    layer = random_layer(N=4, E=64, F=512)
    weight_NA, expert_NA = choices(layer, A=8, E=64)
    with counted() as cost:
        grouped_experts(layer.x_ND, weight_NA, expert_NA, *layer[4:])
    assert cost.peak_bytes < layer.w_gate_EFD.nbytes / 8


def test_experts_may_be_a_list_of_single_tensors():
    layer = random_layer()
    weight_NA, expert_NA = choices(layer, A=3, E=8)
    stacked_ND = grouped_experts(layer.x_ND, weight_NA, expert_NA, *layer[4:])
    listed_ND = grouped_experts(layer.x_ND, weight_NA, expert_NA, *map(list, layer[4:]))
    np.testing.assert_array_equal(stacked_ND, listed_ND)


def test_fp8_experts_may_be_stacked_or_listed():
    layer = random_layer(E=3)
    weight_NA, expert_NA = choices(layer, A=2, E=3)
    listed = [[quantize(w) for w in weights] for weights in layer[4:]]
    stacked = [
        BlockScaled(np.stack([w.code for w in one]), np.stack([w.scale for w in one]))
        for one in listed
    ]
    outputs = [grouped_experts(layer.x_ND, weight_NA, expert_NA, *w) for w in (listed, stacked)]
    np.testing.assert_array_equal(*outputs)
    assert outputs[0].any()


@pytest.mark.parametrize("expert", [-3, -1, 8, 9])
def test_an_expert_of_another_rank_is_not_answered(expert):
    layer = random_layer(N=2)
    expert_NA = np.array([[expert, 3], [expert, expert]], np.int32)
    y_ND = grouped_experts(layer.x_ND, np.ones((2, 2), np.float32), expert_NA, *layer[4:])
    assert y_ND[0].any()
    assert not y_ND[1].any()


def test_a_step_that_nobody_here_is_asked_reads_nothing():
    layer = random_layer(N=2)
    recorded = [RecordedWeights(w) for w in layer[4:]]
    y_ND = grouped_experts(
        layer.x_ND, np.ones((2, 1), np.float32), np.full((2, 1), 8, np.int32), *recorded
    )
    assert not y_ND.any()
    assert not any(weights.read for weights in recorded)
