"""Tests of random_weights: shapes, standard deviation, and equality for a seed and for shards."""

import dataclasses

import numpy as np
import pytest

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import HubLayout
from mimo_v2_flash.parallel_config import ShardSpec
from mimo_v2_flash.quantization.fp8 import BlockScaled

CONFIG = MiMoConfig(
    vocab_size=500,
    hidden_size=256,
    intermediate_size=512,
    moe_intermediate_size=130,
    num_hidden_layers=2,
    hybrid_layer_pattern=(0, 1),
    moe_layer_freq=(0, 1),
    n_routed_experts=4,
    num_experts_per_tok=2,
)
WEIGHTS = random_weights(CONFIG, seed=0)


def values(weight) -> np.ndarray:
    if isinstance(weight, BlockScaled):
        return weight.dequantize()
    return weight.astype(np.float32)


@pytest.mark.parametrize(
    "weight",
    [
        WEIGHTS.embedding_VD,
        WEIGHTS.w_logits_VD,
        WEIGHTS.layers[0].attention.w_q_OD,
        WEIGHTS.layers[0].feed_forward.w_down_DF,
        WEIGHTS.layers[1].attention.w_o_DI,
        WEIGHTS.layers[1].feed_forward.w_router_ED,
    ],
)
def test_the_spread_is_the_initializer_range(weight):
    assert np.std(values(weight)) == pytest.approx(CONFIG.initializer_range, rel=0.1)
    assert abs(np.mean(values(weight))) < 0.1 * CONFIG.initializer_range


def test_shapes_are_those_of_the_parameter_specs():
    q, k, *_ = param_specs.attention("", CONFIG.layers[1].attention, CONFIG.hidden_size)
    assert WEIGHTS.layers[1].attention.w_q_OD.shape == q.shape
    assert WEIGHTS.layers[1].attention.w_k_OD.shape == k.shape
    gate, _, down = param_specs.expert("", CONFIG.layers[1], 0)
    assert WEIGHTS.layers[1].feed_forward.experts.w_gate_eFD[3].shape == gate.shape
    assert WEIGHTS.layers[1].feed_forward.experts.w_down_eDF[3].shape == down.shape


def test_experts_are_in_the_format_of_the_layout():
    config = dataclasses.replace(CONFIG, moe_intermediate_size=128)
    layout = HubLayout(fused=True, expert_format="mxfp4", router_dtype="BF16")
    weights = random_weights(config, seed=0, layout=layout)
    mixture = weights.layers[1].feed_forward
    for matrix in (mixture.experts.w_gate_eFD[3], mixture.experts.w_down_eDF[3]):
        assert matrix.format == "mxfp4"
        assert np.std(matrix.dequantize()) == pytest.approx(CONFIG.initializer_range, rel=0.1)
    assert mixture.w_router_ED.dtype == np.float32
    assert isinstance(weights.layers[1].attention.w_q_OD, BlockScaled)


def test_a_seed_is_a_model():
    again, other = random_weights(CONFIG, seed=0), random_weights(CONFIG, seed=1)
    np.testing.assert_array_equal(again.w_logits_VD, WEIGHTS.w_logits_VD)
    assert np.mean(other.w_logits_VD == WEIGHTS.w_logits_VD) < 0.1


def test_rows_and_experts_differ():
    experts = WEIGHTS.layers[1].feed_forward.experts.w_gate_eFD
    assert np.mean(experts[0].code == experts[1].code) < 0.1
    assert np.mean(WEIGHTS.embedding_VD[0] == WEIGHTS.embedding_VD[1]) < 0.1


@pytest.mark.parametrize("mtp_heads", [0, 3])
def test_everything_that_is_made_is_reported(mtp_heads):
    counts: list[int] = []
    random_weights(CONFIG, seed=0, made=counts.append, mtp_heads=mtp_heads)
    norms = CONFIG.hidden_size * 5 * (1 + mtp_heads)
    params = param_specs.all_params(CONFIG, mtp_heads=mtp_heads)
    assert sum(counts) == sum(int(np.prod(param.shape)) for param in params) - norms


def test_mtp_heads_are_added_to_the_same_model_and_differ():
    weights = random_weights(CONFIG, seed=0, mtp_heads=2)
    np.testing.assert_array_equal(weights.w_logits_VD, WEIGHTS.w_logits_VD)
    first, second = weights.mtp
    assert np.std(values(first.w_eh_DI)) == pytest.approx(CONFIG.initializer_range, rel=0.1)
    assert np.mean(first.w_eh_DI == second.w_eh_DI) < 0.1
    for norm_D in (first.embedding_norm_D, first.hidden_norm_D, first.final_norm_D):
        assert (norm_D == 1).all()
    shard_spec = ShardSpec(1, 2, 0, 1)
    shard = random_weights(CONFIG, seed=0, shard_spec=shard_spec, mtp_heads=2)
    expected = shard_weights(weights, CONFIG, shard_spec).mtp[1].layer
    network, other = shard.mtp[1].layer.feed_forward, expected.feed_forward
    assert network.w_down_DF.shape == (256, 256)  # half of its columns
    np.testing.assert_array_equal(values(network.w_down_DF), values(other.w_down_DF))


@pytest.mark.parametrize("shard_spec", [ShardSpec(0, 1, 2, 4), ShardSpec(1, 2, 1, 2)])
def test_a_shard_is_that_of_the_whole_model(shard_spec):
    shard = random_weights(CONFIG, seed=0, shard_spec=shard_spec)
    expected = shard_weights(WEIGHTS, CONFIG, shard_spec)
    assert shard.shard_spec == shard_spec
    np.testing.assert_array_equal(shard.w_logits_VD, expected.w_logits_VD)
    for layer, other in zip(shard.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(
            values(layer.attention.w_k_OD), values(other.attention.w_k_OD)
        )
    of_shard, of_expected = (w.layers[1].feed_forward.experts for w in (shard, expected))
    for stack, other in zip(of_shard.columns, of_expected.columns, strict=True):
        assert len(stack) == 4 // shard_spec.expert_parallel_size
        for weight, same in zip(stack, other, strict=True):
            np.testing.assert_array_equal(values(weight), values(same))


def test_experts_of_other_ranks_are_not_made():
    counts: list[int] = []
    random_weights(CONFIG, seed=0, made=counts.append, shard_spec=ShardSpec(0, 1, 0, 4))
    params = param_specs.all_params(CONFIG, shard_spec=ShardSpec(0, 1, 0, 4))
    assert (
        sum(counts) == sum(int(np.prod(param.shape)) for param in params) - CONFIG.hidden_size * 5
    )
