"""Static mode: a few shapes hold any data, the same shapes on every rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.eager_dispatchers import MoEStepShape
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.static_mode import StaticMode, kv_length_bucket, step_length
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.kinds import every_kind
from tests.support.tiny import tiny

MODE = StaticMode()
counts = st.integers(0, 600)
TWO_RANKS = (slice(0, 2), slice(2, 3))


def step_of(starts, lengths) -> Step:
    token_BT = np.arange(9 * len(lengths)).reshape(-1, 9)
    return Step(token_BT, np.array(starts), np.array(lengths), np.zeros((len(lengths), 1), int))


@given(counts, st.integers(1, 600))
def test_a_step_has_room_for_every_row(count, max_step):
    length = step_length(count, max_step)
    assert length >= max(count, 1)
    assert length in {1, 4} or length % max_step == 0
    if count <= max_step:
        assert length <= max_step


def test_a_model_has_three_lengths_of_step():
    assert {step_length(count, 128) for count in range(129)} == {1, 4, 128}
    assert {step_length(count, 2) for count in range(3)} == {1, 2}


@given(st.integers(0, 300_000), st.integers(1, 300_000))
def test_a_program_attends_to_all_that_came_before(kv_length, slots):
    kv_length = min(kv_length, slots)
    bucket = kv_length_bucket(kv_length, slots)
    assert kv_length <= bucket <= slots
    assert bucket == slots or bucket.bit_count() == 1
    assert bucket < max(257, 2 * kv_length)
    assert MODE.kv_length(kv_length + 9 * slots, slots) == slots


def test_a_context_of_262144_tokens_has_11_sizes_and_a_ring_one():
    buckets = {kv_length_bucket(kv_length, 1 << 18) for kv_length in range(0, 1 << 18, 128)}
    assert len(buckets) == 11
    assert {MODE.kv_length(kv_length, 132) for kv_length in range(200)} == {132}


def test_a_dispatch_has_buckets_to_try():
    sizes = {"local_tokens": 128, "ranks": 32, "num_experts": 256, "experts_per_token": 8}
    assert len(MODE.dispatchers(None, MoEStepShape(tokens=4096, **sizes))) == 3


def test_all_ranks_have_the_groups_of_all():
    plan, world = ParallelConfig(4, 2, 2), ThreadGroup(4)
    for ranks_of in (plan.tensor_group_ranks, plan.expert_group_ranks):
        groups = world.run(lambda _, ranks_of=ranks_of: MODE.build_group(world, ranks_of))
        assert groups == [groups[0]] * 4
        assert groups[0] == DeviceGroup(tuple({tuple(ranks_of(rank)): 0 for rank in range(4)}))
    alone = MODE.build_group(SoloGroup(), ParallelConfig().expert_group_ranks)
    assert isinstance(alone, SoloGroup)


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(1, 12))
def test_passes_have_every_token_once_in_columns(lengths, max_step):
    done_B, chunk = np.zeros(3, int), max(1, max_step // 2)  # two sequences on the fuller rank
    cache = new_cache(tiny().config.layers, batch_size=3, max_length=9, rank_rows=TWO_RANKS)
    for batch in MODE.batches(step_of([0] * 3, lengths), cache, max_step):
        np.testing.assert_array_equal(batch.first_B, done_B)
        np.testing.assert_array_equal(batch.start_B, done_B)
        assert 0 < np.max(batch.count_B) <= chunk
        real_N = batch.position_N >= 0
        assert batch.token_N[real_N].tolist() == [
            9 * row + int(batch.first_B[row]) + t
            for row in range(2)
            for t in range(batch.count_B[row])
        ]
        done_B += batch.count_B
    assert done_B.tolist() == lengths


@pytest.mark.parametrize("rank", [0, 1])
def test_a_batch_is_a_rectangle_of_one_shape_on_every_rank(rank):
    cache = new_cache(
        tiny().config.layers,
        batch_size=3,
        max_length=9,
        rank_rows=TWO_RANKS,
        rank=rank,
        sequences=2,
    )
    (batch,) = MODE.batches(step_of([4, 2, 3], [2, 0, 3]), cache, 8)
    expected = [[[4, 5, -1, -1], [-1] * 4], [[3, 4, 5, -1], [-1] * 4]][rank]
    assert batch.position_N.reshape(2, 4).tolist() == expected
    real_N = batch.position_N >= 0
    assert batch.token_N[real_N].tolist() == [[0, 1], [18, 19, 20]][rank]
    (run,) = batch.runs
    assert (run.rows, run.tokens, run.row_B, run.kv_length) == (2, 4, None, 4)
    assert batch.longest == 8


def test_a_view_takes_its_sequences_as_data():
    cache = new_cache(tiny().config.layers, batch_size=5, max_length=9).view(2, 4)
    (batch,) = MODE.batches(step_of([1, 1], [1, 1]), cache, 8)
    (run,) = batch.runs
    assert run.row_B.tolist() == [2, 3]
    assert run.row_B.dtype == np.int32
    assert batch.row_N.tolist() == [2, 3]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_with_fewer_sequences_of_a_view_reads_none_beyond_its_cache(rank):
    layers, rank_rows = tiny().config.layers, (slice(0, 3), slice(3, 6))
    cache = new_cache(layers, batch_size=6, max_length=9, rank_rows=rank_rows, rank=rank)
    (batch,) = MODE.batches(step_of([1] * 3, [1] * 3), cache.view(2, 5), 8)
    assert batch.position_N.tolist() == [[1, -1], [1, 1]][rank]
    assert batch.runs[0].row_B.tolist() == [[2, 2], [0, 1]][rank]


def test_selected_rows_are_columns_of_every_row():
    cache = new_cache(tiny().config.layers, batch_size=3, max_length=9)
    (batch,) = MODE.batches(step_of([0] * 3, [2, 0, 3]), cache, 12)
    index_Bn = np.array([[1, 0, 9], [0, 0, 9], [2, 9, 9]])
    is_in_pass_Bn = np.array([[True, True, False], [False] * 3, [True, False, False]])
    row_N, kept = MODE.select_rows(batch, index_Bn, is_in_pass_Bn, slice(0, 3))
    assert len(row_N) == 3 * 2  # no rank wants the third column
    assert row_N[kept].tolist() == [1, 0, 8 + 2]
    assert row_N.max() < len(batch.position_N)


def test_tokens_are_split_into_equal_parts():
    x_ND = np.arange(7.0)[:, None] + 1
    parts = [
        MODE.split_tokens(x_ND, np.array([rank], np.int32), 3, padding=-1)[:, 0].tolist()
        for rank in range(3)
    ]
    assert parts == [[1, 2, 3], [4, 5, 6], [7, -1, -1]]
    assert MODE.split_tokens(x_ND, np.zeros(1, np.int32), 1, padding=-1) is x_ND


@every_kind
def test_any_number_of_tokens_is_split(on):
    x_ND = np.arange(40_001, dtype=np.float32)[:, None]

    def last_part(x_ND, rank_1):
        return MODE.split_tokens(x_ND, rank_1, 2, padding=-1)

    part_ND = on(last_part)(x_ND, np.ones(1, np.int32))
    np.testing.assert_array_equal(part_ND[:, 0], [*range(20_001, 40_001), -1])


def test_every_rank_has_room_for_as_many_sequences():
    assert [MODE.sequences(TWO_RANKS, rank) for rank in range(2)] == [2, 2]
    assert MODE.sequences((slice(0, 0), slice(0, 0)), 0) == 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5))
def test_a_chunk_is_no_longer_than_a_sequence(max_step, max_length, rows):
    """`max_step` counts all rows together: one row's part of it may be longer than its cache."""
    cache = new_cache(tiny().config.layers, batch_size=rows, max_length=max_length)
    lengths = [min(9, max_length)] * rows
    (first, *_) = MODE.batches(step_of([0] * rows, lengths), cache, max_step)
    chunk = min(max(1, max_step // rows), max_length)
    assert first.longest == rows * step_length(min(lengths[0], chunk), chunk)
    assert first.longest <= rows * max_length
