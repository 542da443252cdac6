"""Tests of shard_weights: shards are views of equal values, and together they are the whole."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ModelWeights, MoEWeights, nbytes
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.checkpoint.subset import (
    AxisSlice,
    shard_weights,
    slice_weight,
)
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig, ShardSpec
from mimo_v2_flash.quantization.fp8 import BlockScaled, quantize, sliced_block_height
from tests.support.drawn import seeds
from tests.support.quantised import SMALL, matrix

# MiMo's head widths, 4 and 8 KV heads; experts for 1, 2, 4 and 8 ranks; whole blocks on each.
CONFIG = replace(SMALL, n_routed_experts=8, intermediate_size=1024)
WEIGHTS = random_weights(CONFIG, seed=0)
tensor_parallels = st.sampled_from([1, 2, 4, 8])


def value(weight) -> np.ndarray:
    return weight.dequantize() if isinstance(weight, BlockScaled) else weight.astype(np.float32)


def all_shards(parallel: ParallelConfig) -> list[ModelWeights]:
    shard_specs = {parallel.shard_spec(rank) for rank in range(parallel.world_size)}
    return [shard_weights(WEIGHTS, CONFIG, shard_spec) for shard_spec in sorted(shard_specs)]


def memory_of(weight):
    return weight.code if isinstance(weight, BlockScaled) else weight


@given(st.integers(1, 500), st.integers(1, 300), st.sampled_from([64, 128]), seeds, st.data())
@settings(max_examples=60)
def test_rows_of_an_fp8_weight_are_a_view_of_the_same_numbers(outputs, inputs, height, seed, data):
    whole = quantize(matrix(np.random.default_rng(seed), outputs, inputs), block_height=height)
    start = data.draw(st.integers(0, outputs - 1))
    rows = range(start, data.draw(st.integers(start + 1, outputs)))
    part = slice_weight(whole, AxisSlice(0, rows))
    np.testing.assert_array_equal(part.dequantize(), whole.dequantize()[rows.start : rows.stop])
    assert np.shares_memory(part.code, whole.code)


def test_blocks_are_as_high_in_every_slice():
    for head in range(64):
        assert sliced_block_height(128, range(192 * head, 192 * (head + 1))) == 64
        assert sliced_block_height(128, range(128 * head, 128 * (head + 1))) == 128
        assert sliced_block_height(64, range(192 * head, 192 * (head + 1))) == 64


@given(st.integers(1, 300), st.integers(1, 4), seeds, st.data())
def test_columns_of_an_fp8_weight_are_the_same_numbers(outputs, blocks, seed, data):
    whole = quantize(matrix(np.random.default_rng(seed), outputs, blocks * 128))
    start = 128 * data.draw(st.integers(0, blocks - 1))
    columns = range(start, data.draw(st.integers(start + 1, blocks * 128)))
    part = slice_weight(whole, AxisSlice(1, columns))
    expected = whole.dequantize()[:, columns.start : columns.stop]
    np.testing.assert_array_equal(part.dequantize(), expected)
    assert part.code.flags.c_contiguous


def test_a_column_inside_a_block_is_refused():
    whole = quantize(np.ones((3, 264), np.float32))
    with pytest.raises(ValueError, match=r"begins at column 132 of an FP8 weight \(3, 264\)"):
        slice_weight(whole, AxisSlice(1, range(132, 264)))


@settings(max_examples=20)
@given(tensor_parallels, st.sampled_from([1, 2, 4, 8]))
def test_all_shards_together_are_the_whole(tensor_parallel, expert_parallel):
    head_shards = all_shards(ParallelConfig(1, tensor_parallel))
    expert_shards = all_shards(ParallelConfig(expert_parallel, 1, expert_parallel))
    for index, (layer, spec) in enumerate(zip(WEIGHTS.layers, CONFIG.layers, strict=True)):
        whole, repeats = layer.attention, max(1, tensor_parallel // spec.attention.num_kv_heads)
        parts = [shard.layers[index].attention for shard in head_shards]
        for name, every, axis in (
            ("w_q_OD", 1, 0),
            ("w_k_OD", repeats, 0),
            ("w_v_OD", repeats, 0),
            ("w_o_DI", 1, 1),
            ("sink_H", 1, 0),
        ):
            slices = [value(getattr(part, name)) for part in parts[::every]]
            expected = value(getattr(whole, name))
            np.testing.assert_array_equal(np.concatenate(slices, axis), expected)
        if isinstance(layer.feed_forward, MoEWeights):
            for stack, *slices in zip(
                layer.feed_forward.experts.columns,
                *(shard.layers[index].feed_forward.experts.columns for shard in expert_shards),
                strict=True,
            ):
                assert [w for experts in slices for w in experts] == list(stack)
            continue
        networks = [shard.layers[index].feed_forward for shard in head_shards]
        for name, axis in (("w_gate_FD", 0), ("w_up_FD", 0), ("w_down_DF", 1)):
            slices = [value(getattr(network, name)) for network in networks]
            expected = value(getattr(layer.feed_forward, name))
            np.testing.assert_array_equal(np.concatenate(slices, axis), expected)
    heads = [value(shard.w_logits_VD) for shard in head_shards]
    np.testing.assert_array_equal(np.concatenate(heads), value(WEIGHTS.w_logits_VD))


def test_a_shard_is_views_but_for_columns():
    shard = shard_weights(WEIGHTS, CONFIG, ShardSpec(1, 4, 1, 4))
    assert np.shares_memory(shard.w_logits_VD, WEIGHTS.w_logits_VD)
    assert shard.embedding_VD is WEIGHTS.embedding_VD
    for layer, whole in zip(shard.layers, WEIGHTS.layers, strict=True):
        for name in ("w_q_OD", "w_k_OD", "w_v_OD"):
            part, whole_weight = (getattr(side.attention, name) for side in (layer, whole))
            assert np.shares_memory(memory_of(part), memory_of(whole_weight))
        assert not np.shares_memory(layer.attention.w_o_DI, whole.attention.w_o_DI)


@pytest.mark.parametrize(
    "parallel", [ParallelConfig(4, 1, 4), ParallelConfig(8, 8), ParallelConfig(2, 4, 2)]
)
def test_a_shard_is_as_small_as_its_part(parallel):
    """A rank holds 1/P of the experts, 1/T of the heads, and little else."""
    shard = shard_weights(WEIGHTS, CONFIG, parallel.shard_spec(1))
    experts, heads = WEIGHTS.layers[1].feed_forward.experts, WEIGHTS.layers[1].attention
    layer = shard.layers[1]
    assert nbytes(layer.feed_forward.experts) * parallel.expert_parallel_size == nbytes(experts)
    grids = 2 * nbytes(heads.w_q_OD.scale)  # lower blocks have more scales
    assert nbytes(layer.attention) * parallel.tensor_parallel_size <= nbytes(heads) + 8 * grids


def test_a_shard_is_not_sliced_again_and_another_one_is_refused():
    parallel = ParallelConfig(4, 2, 2)
    part = shard_weights(WEIGHTS, CONFIG, parallel.shard_spec(1))
    assert shard_weights(part, CONFIG, parallel.shard_spec(1)) is part
    assert shard_weights(WEIGHTS, CONFIG, UNSHARDED) is WEIGHTS
    with pytest.raises(
        ValueError, match=r"the weights are ShardSpec\(tensor_parallel_rank=1, tensor"
    ):
        shard_weights(part, CONFIG, parallel.shard_spec(0))
