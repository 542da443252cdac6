"""Dense and MoE feed-forward against transformers' modules with equal weights."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.layers.eager_dispatchers import RaggedAllToAllDispatcher
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.layers.feed_forward import Dense, MixtureOfExperts
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.parallel import SoloGroup
from tests.support.agreement import assert_agrees
from tests.support.drawn import seeds
from tests.support.oracle import decided, layer_io
from tests.support.ranks import FIRST
from tests.support.tiny import random_tokens, recipes, tiny

MODEL = tiny()
DENSE, SPARSE = 0, 1  # indices of layers
SPEC = MODEL.config.layers[SPARSE]
SOLO = SoloGroup()
ROUTING = SPEC.experts_per_token, SPEC.routed_scaling_factor
MIXTURE = MixtureOfExperts(*ROUTING, SOLO, SOLO, grouped_experts, EagerMode().split_tokens)
ALL_GATHER = AllGatherDispatcher()
X_ND = np.random.default_rng(0).standard_normal((9, SPEC.hidden_size)).astype(np.float32)


def forward(
    layer, index: int, x_ND=X_ND, *, position_N=None, weights=None, dispatcher=ALL_GATHER
) -> np.ndarray:
    """Return the output of `layer` with the weights of layer `index`."""
    position_N = np.arange(len(x_ND)) if position_N is None else np.array(position_N)
    weights = weights or MODEL.weights.layers[index].feed_forward
    y_ND, overflow_1 = layer(
        x_ND, position_N.astype(np.int32), FIRST, weights, dispatcher=dispatcher
    )
    assert not overflow_1.any()
    return y_ND


both = pytest.mark.parametrize(("layer", "index"), [(Dense(4, SOLO), DENSE), (MIXTURE, SPARSE)])


@settings(max_examples=10)
@given(recipes(), seeds)
def test_every_layer_is_transformers(recipe, seed):
    model = tiny(recipe)
    token_T = random_tokens(model, 20, seed=seed)
    decided(model, token_T)
    expected = layer_io(model, token_T)
    mixture = replace(MIXTURE, experts_per_token=recipe.experts_per_token, scaling=recipe.scaling)
    for index, spec in enumerate(model.config.layers):
        (x_ND,), (expected_ND,) = expected[f"{index}.mlp"]
        weights = model.weights.layers[index].feed_forward
        y_ND = forward(
            mixture if spec.num_experts else Dense(7, SOLO), index, x_ND, weights=weights
        )
        assert_agrees(y_ND, expected_ND, scale=5 * np.max(np.abs(expected_ND)))


@both
def test_a_token_is_answered_as_if_it_were_alone(layer, index):
    together = forward(layer, index)
    alone = [forward(layer, index, x_ND) for x_ND in np.split(X_ND, len(X_ND))]
    assert_agrees(together, np.concatenate(alone))


@both
def test_padding_changes_no_token(layer, index):
    padded = forward(layer, index, position_N=[0, 1, -1, 0, 1, 2, -1, -1, 7])
    real = [0, 1, 3, 4, 5, 8]
    assert_agrees(padded[real], forward(layer, index)[real])


def test_padding_chooses_no_expert():
    assert not forward(MIXTURE, SPARSE, position_N=[-1] * 9).any()


@both
def test_it_answers_in_the_dtype_of_the_stream(layer, index):
    exact, rounded = forward(layer, index), forward(layer, index, X_ND.astype(ml_dtypes.bfloat16))
    assert (exact.dtype, rounded.dtype) == (np.float32, ml_dtypes.bfloat16)
    assert_agrees(rounded, exact, scale=5 * np.max(np.abs(exact)))


@pytest.mark.parametrize("token_block", [1, 2, 9, 512])
def test_the_block_of_a_dense_network_is_no_part_of_its_answer(token_block):
    assert_agrees(forward(Dense(token_block, SOLO), DENSE), forward(Dense(4, SOLO), DENSE))


@pytest.mark.parametrize(
    ("expert_fn", "dispatcher"),
    [
        (capacity_experts, AllGatherDispatcher()),
        (capacity_experts, AllToAllDispatcher(send_capacity=len(X_ND), capacity=len(X_ND))),
        (grouped_experts, RaggedAllToAllDispatcher()),
    ],
    ids=["all gather", "all to all", "ragged"],
)
def test_how_tokens_reach_their_experts_is_no_part_of_the_answer(expert_fn, dispatcher):
    mixture = MODEL.weights.layers[SPARSE].feed_forward
    stacked = mixture._replace(experts=ExpertWeights(*map(np.stack, mixture.experts.columns)))
    y_ND = forward(
        replace(MIXTURE, expert_fn=expert_fn), SPARSE, weights=stacked, dispatcher=dispatcher
    )
    assert_agrees(y_ND, forward(MIXTURE, SPARSE), scale=5 * np.max(np.abs(y_ND)))
