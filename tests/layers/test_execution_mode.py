"""Execution modes: eager shapes follow the data, static shapes are a few that hold any data."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.eager_dispatchers import MoEStepShape
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup
from mimo_v2_flash.parallel_config import ParallelConfig

EAGER, STATIC = EXECUTION_MODES["eager"], EXECUTION_MODES["static"]
counts = st.integers(0, 600)


@given(counts, st.integers(1, 600))
def test_on_a_host_sizes_are_those_of_the_data(count, most):
    assert EAGER.step_length(count, most) == count
    assert EAGER.kv_length(count, most) == min(count, most)


@given(counts, st.integers(1, 600))
def test_a_program_has_room_for_every_row(count, max_step):
    length = STATIC.step_length(count, max_step)
    assert length >= max(count, 1)
    assert length in {1, 4} or length % max_step == 0
    if count <= max_step:
        assert length <= max_step


def test_a_model_has_three_lengths_of_step():
    assert {STATIC.step_length(count, 128) for count in range(129)} == {1, 4, 128}
    assert {STATIC.step_length(count, 2) for count in range(3)} == {1, 2}


@given(st.integers(0, 300_000), st.integers(1, 300_000))
def test_a_program_looks_at_all_that_is_there(kv_length, slots):
    kv_length = min(kv_length, slots)
    bucket = STATIC.kv_length(kv_length, slots)
    assert kv_length <= bucket <= slots
    assert bucket == slots or bucket.bit_count() == 1
    assert bucket < max(257, 2 * kv_length)


def test_a_context_of_262144_tokens_has_11_sizes_and_a_ring_one():
    buckets = {STATIC.kv_length(kv_length, 1 << 18) for kv_length in range(0, 1 << 18, 128)}
    assert len(buckets) == 11
    assert {STATIC.kv_length(kv_length, 132) for kv_length in range(133)} == {132}


def test_the_form_is_the_backends():
    assert EXECUTION_MODES[NumpyBackend.execution_mode] is EAGER


def test_a_program_tries_buckets_and_a_host_has_one_way():
    shape = MoEStepShape(
        tokens=4096, local_tokens=128, ranks=32, num_experts=256, experts_per_token=8
    )
    assert len(STATIC.dispatchers(None, shape)) == 3
    assert len(EAGER.dispatchers(None, shape)) == 1


def test_a_program_is_sized_by_all_rows_and_a_host_by_its_own():
    position_BT = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(
        EAGER.sizing_positions(position_BT, slice(1, 2)), position_BT[1:2]
    )
    np.testing.assert_array_equal(STATIC.sizing_positions(position_BT, slice(1, 2)), position_BT)


def test_a_program_has_the_groups_of_all_ranks_and_a_host_its_own():
    plan, world = ParallelConfig(4, 2, 2), ThreadGroup(4)
    for ranks_of in (plan.tensor_group_ranks, plan.expert_group_ranks):
        groups = world.run(lambda _, ranks_of=ranks_of: STATIC.build_group(world, ranks_of))
        assert groups == [groups[0]] * 4
        assert groups[0] == DeviceGroup(tuple({tuple(ranks_of(rank)): 0 for rank in range(4)}))
        ranks = world.run(lambda _, ranks_of=ranks_of: EAGER.build_group(world, ranks_of).rank)
        assert ranks == [ranks_of(rank).index(rank) for rank in range(4)]
    alone = STATIC.build_group(SoloGroup(), ParallelConfig().expert_group_ranks)
    assert isinstance(alone, SoloGroup)
