"""Layers with two collectives: any ranks, each with its rows and heads, compute what one does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.layers.layer_range import LayerRange
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.layers.replicated_range import (
    ReplicatedLayer,
    ReplicatedRange,
    place_part,
    take_part,
)
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.batches import metadata_of
from tests.support.drawn import seeds
from tests.support.tiny import KINDS, Recipe, tiny

MODEL = tiny(Recipe(layers=(*KINDS, KINDS[3]), vocabulary=64, dense_width=32, experts=8))
CONFIG, STATIC = MODEL.config, EXECUTION_MODES["static"]
ROWS, LENGTH = 4, 40
PLANS = [
    *(ParallelConfig(4, 1, 4), ParallelConfig(4, 2, 2), ParallelConfig(4, 4, 1)),
    *(ParallelConfig(2, 2, 2), ParallelConfig(1, 2, 1)),
]
STEPS = ((0, 4), (4, 1))  # lengths of static steps
every_plan = pytest.mark.parametrize("plan", PLANS, ids=str)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 3), seeds)
def test_a_part_is_placed_where_it_is_taken(parts, count, rank, seed):
    rank_1 = np.array([rank % parts], np.int32)
    x_ND = np.random.default_rng(seed).standard_normal((count, 3), np.float32)
    placed_MD = place_part(x_ND, rank_1, parts)
    assert placed_MD.shape == (parts * count, 3)
    np.testing.assert_array_equal(take_part(placed_MD, rank_1, parts), x_ND)
    assert np.count_nonzero(placed_MD) == np.count_nonzero(x_ND)
    bad_MD = place_part(np.full_like(x_ND, np.nan), rank_1, parts)
    assert np.count_nonzero(np.isnan(bad_MD)) == x_ND.size


def on_a_rank(plan, group, states):
    """Return a rank's rows, and the hidden states of them after each step."""
    context = ParallelContext(plan, group)
    specs = tuple(map(context.shard_spec.local_layer, CONFIG.layers))
    weights = to_device_layout(shard_weights(MODEL.weights, CONFIG, context.shard_spec)).layers
    rows = context.rank_rows(ROWS)[context.data_parallel_rank]
    count, attention = rows.stop - rows.start, [spec.attention for spec in specs]
    kinds, outputs = list(dict.fromkeys(attention)), []
    cache = new_cache(specs, batch_size=count, max_length=LENGTH)
    run = range_of(specs, tuple(map(kinds.index, attention)), context)
    for (start, tokens), x_BTD in zip(STEPS, states, strict=True):
        sizes = [start] * count, [tokens] * count, cache
        metadata = tuple(
            metadata_of(kind, *sizes, layer=attention.index(kind), mode="static") for kind in kinds
        )
        y_ND = run(x_BTD[rows].reshape(count * tokens, -1), metadata, cache.layers, weights)
        outputs.append(y_ND.reshape(count, tokens, -1))
    return rows, outputs


def range_of(specs, kinds, context):
    """Return the layers as a function: replicated on many ranks, on one rank as they always are."""
    groups = context.tensor_group, context.expert_group
    layers = tuple(DecoderLayer.build(spec, *groups, STATIC) for spec in specs)
    if context.world_group.size == 1:
        choices = (AllGatherDispatcher(),) * len(specs)
        return lambda x_ND, metadata, *arrays: LayerRange(layers, kinds)(
            x_ND, metadata, context.rank_ids, *arrays, dispatchers=choices
        )
    parts = context.parallel_config.data_parallel_size
    data_rank_1 = np.array([context.data_parallel_rank], np.int32)
    function = ReplicatedRange(
        tuple(ReplicatedLayer(layer, context.world_group, parts) for layer in layers), kinds
    )
    return lambda x_ND, metadata, *arrays: function(
        x_ND, metadata, context.rank_ids, data_rank_1, *arrays
    )


def drawn_states(seed: int, dtype=np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(ROWS, tokens, CONFIG.hidden_size) for _, tokens in STEPS]
    return [rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes]


@every_plan
@settings(max_examples=4)
@given(seeds)
def test_any_ranks_are_one_rank(plan, seed):
    states, group = drawn_states(seed), ThreadGroup(plan.world_size)
    _, expected = on_a_rank(ParallelConfig(), SoloGroup(), states)
    for rows, outputs in group.run(lambda _: on_a_rank(plan, group, states)):
        for y_BTD, expected_BTD in zip(outputs, expected, strict=True):
            scale = 10 * np.ptp(expected_BTD)
            assert_agrees(y_BTD, expected_BTD[rows], scale=scale)


@every_plan
def test_a_bad_row_stays_alone(plan):
    states, group = drawn_states(0), ThreadGroup(plan.world_size)
    good = states[0].copy()
    states[0][1, 2] = np.nan
    _, expected = on_a_rank(ParallelConfig(), SoloGroup(), [good, states[1]])

    def quietly(_: int):
        with np.errstate(invalid="ignore"):
            return on_a_rank(plan, group, states)

    for rows, outputs in group.run(quietly):
        for row in range(rows.start, rows.stop):
            for y_BTD, expected_BTD in zip(outputs, expected, strict=True):
                y_TD = y_BTD[row - rows.start]
                if row != 1:
                    assert_agrees(y_TD, expected_BTD[row], scale=10 * np.ptp(expected_BTD))
                else:
                    assert np.isnan(y_TD).any()
