"""Tests of parts of a model: fewer experts, or the first layers; all else is the whole one's."""

from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.checkpoint.subset import check_experts, keep_experts, keep_layers
from tests.support.tiny import tiny

SPARSE, DENSE = (1, 3, 4), (0, 2)  # of the default recipe's layers; 7 experts, 3 for a token


def subset(experts):
    whole = tiny()
    return (whole, *keep_experts(whole.weights, whole.config, experts))


@pytest.mark.parametrize("experts", [[5, 0, 3, 6], (1, 2), np.array([4]), range(7)])
def test_kept_experts_are_unchanged_and_in_order(experts):
    whole, weights, config = subset(experts)
    ids = sorted(map(int, experts))
    assert config.n_routed_experts == len(ids)
    for index in SPARSE:
        before, after = (model.layers[index].feed_forward for model in (whole.weights, weights))
        np.testing.assert_array_equal(after.w_router_ED, before.w_router_ED[ids])
        np.testing.assert_array_equal(after.bias_E, before.bias_E[ids])
        assert after.bias_E.dtype == after.w_router_ED.dtype == np.float32
        for kept, stack in zip(after.experts.columns, before.experts.columns, strict=True):
            assert len(kept) == len(ids)
            assert all(w is stack[e] for w, e in zip(kept, ids, strict=True))


def test_everything_else_is_untouched():
    whole, weights, _ = subset([2, 4])
    assert weights.embedding_VD is whole.weights.embedding_VD
    assert weights.final_norm_D is whole.weights.final_norm_D
    assert weights.w_logits_VD is whole.weights.w_logits_VD
    for before, after in zip(whole.weights.layers, weights.layers, strict=True):
        assert after.attention is before.attention
        assert after.attention_norm_D is before.attention_norm_D
        assert after.feed_forward_norm_D is before.feed_forward_norm_D
    assert all(weights.layers[i] is whole.weights.layers[i] for i in DENSE)
    assert len(whole.weights.layers[SPARSE[0]].feed_forward.experts.w_up_eFD) == 7


@pytest.mark.parametrize(("count", "chosen"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_a_token_is_routed_to_at_most_the_kept_experts(count, chosen):
    whole, _, config = subset(range(count))
    assert config.num_experts_per_tok == chosen
    assert config.layers[0] == whole.config.layers[0]
    assert whole.config.num_experts_per_tok == 3


def test_a_subset_is_on_one_device():
    spread = replace(tiny().config, num_devices=7)
    assert keep_experts(tiny().weights, spread, [2, 3])[1].num_devices == 1


def test_stacked_experts_are_selected_as_separate_ones_are():
    whole = tiny()
    index = SPARSE[0]
    mixture = whole.weights.layers[index].feed_forward
    stacked = mixture._replace(experts=ExpertWeights(*map(np.stack, mixture.experts.columns)))
    layers = list(whole.weights.layers)
    layers[index] = layers[index]._replace(feed_forward=stacked)
    weights = whole.weights._replace(layers=tuple(layers))
    actual, _ = keep_experts(weights, whole.config, [6, 1])
    expected, _ = keep_experts(whole.weights, whole.config, [6, 1])
    actual_w, expected_w = (
        weights.layers[index].feed_forward.experts.columns for weights in (actual, expected)
    )
    np.testing.assert_equal(actual_w, expected_w)


def test_a_subset_can_be_reduced_again_by_the_same_ids():
    whole, part, config = subset([6, 1, 4])
    assert (whole.weights.expert_ids, part.expert_ids) == (tuple(range(7)), (1, 4, 6))
    actual, actual_config = keep_experts(part, config, [6, 1])
    _, expected, expected_config = subset([6, 1])
    assert (actual.expert_ids, actual_config) == (expected.expert_ids, expected_config)
    for index in SPARSE:
        ours, theirs = (model.layers[index].feed_forward for model in (actual, expected))
        np.testing.assert_array_equal(ours.w_router_ED, theirs.w_router_ED)
        np.testing.assert_array_equal(ours.experts.w_up_eFD, theirs.experts.w_up_eFD)
    with pytest.raises(ValueError, match=r"\[0\]"):
        keep_experts(part, config, [0, 1])


def test_without_a_choice_all_experts_are_kept():
    whole, part, config = subset([2, 4])
    assert keep_experts(whole.weights, whole.config) == (whole.weights, whole.config)
    assert keep_experts(part, config) == (part, config)
    again, fitted = keep_experts(part, whole.config)
    assert again is part
    assert fitted == config


@pytest.mark.parametrize(
    ("experts", "fault"),
    [
        ([], "no expert"),
        ([0, 7], r"\[7\]"),
        ([-1, 2], r"\[-1\]"),
        ([1, 2, 1, 5, 5], r"\[1, 5\] more than once"),
    ],
)
def test_an_impossible_choice_is_refused(experts, fault):
    with pytest.raises(ValueError, match=rf"^expert_subset.*{fault}"):
        check_experts(experts, range(7))
    with pytest.raises(ValueError, match="expert_subset"):
        subset(experts)


def test_ids_come_back_in_the_checkpoints_order():
    assert check_experts([6, 0, 3], range(7)) == [0, 3, 6]
    assert check_experts(np.array([2, 9]), (1, 2, 5, 9)) == [2, 9]


@pytest.mark.parametrize(("num_layers", "heads"), [(5, 2), (4, 0), (1, 0)])
def test_the_first_layers_have_mtp_heads_if_they_are_all(num_layers, heads):
    whole = random_weights(tiny().config, seed=0, mtp_heads=2)
    weights, config = keep_layers(whole, tiny().config, num_layers)
    assert config == tiny().config.truncated(num_layers)
    assert weights == whole._replace(layers=whole.layers[:num_layers], mtp=whole.mtp[:heads])
