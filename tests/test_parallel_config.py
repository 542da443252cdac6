"""ParallelConfig: every head, expert and row is on a rank; impossible sizes are refused."""

from dataclasses import replace
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig, all_shard_specs
from tests.support.config_files import SMALL

MIMO = MiMoConfig()
POWERS = [1, 2, 4, 8, 16, 32, 64]


@st.composite
def plans(draw) -> ParallelConfig:
    tensor, data = draw(st.sampled_from(POWERS)), draw(st.integers(1, 9))
    world = tensor * data
    divisors = [size for size in range(1, world + 1) if world % size == 0]
    return ParallelConfig(draw(st.sampled_from([None, *divisors])), tensor, data)


def joined(parts) -> list[int]:
    return [item for part in parts for item in part]


@given(plans(), st.integers(0, 40))
def test_every_row_is_in_one_share_of_the_batch_and_shares_are_even(plan, batch_size):
    parts = [
        plan.batch_range(rank, batch_size)
        for rank in range(0, plan.world_size, plan.tensor_parallel_size)
    ]
    assert joined(parts) == list(range(batch_size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for rank in range(plan.world_size):
        assert plan.batch_range(rank, batch_size) == parts[rank // plan.tensor_parallel_size]


@given(plans())
def test_groups_are_neighbours_and_cover_the_world(plan):
    for group_of, size in (
        (plan.tensor_group_ranks, plan.tensor_parallel_size),
        (plan.expert_group_ranks, plan.expert_parallel_size),
    ):
        groups = {group_of(rank) for rank in range(plan.world_size)}
        assert sorted(joined(groups)) == list(range(plan.world_size))
        assert {len(group) for group in groups} == {size}
        assert all(rank in group_of(rank) for rank in range(plan.world_size))


@given(plans(), st.sampled_from([4, 8]), st.sampled_from([64, 128]))
def test_every_group_has_every_expert_once_and_every_head(plan, num_kv_heads, heads):
    experts = 3 * plan.expert_parallel_size
    for rank in range(plan.world_size):
        shards = [plan.shard_spec(other) for other in plan.expert_group_ranks(rank)]
        assert joined(shard.expert_range(experts) for shard in shards) == list(range(experts))
        shards = [plan.shard_spec(other) for other in plan.tensor_group_ranks(rank)]
        assert joined(shard.tensor_range(heads) for shard in shards) == list(range(heads))
        assert sorted(set(joined(s.kv_head_range(num_kv_heads) for s in shards))) == list(
            range(num_kv_heads)
        )


@given(plans(), st.sampled_from([4, 8]))
def test_a_query_head_lives_with_its_kv_head(plan, num_kv_heads):
    heads = 64
    for rank in range(plan.world_size):
        shard = plan.shard_spec(rank)
        of_query = {query * num_kv_heads // heads for query in shard.tensor_range(heads)}
        assert sorted(of_query) == list(shard.kv_head_range(num_kv_heads))


def test_the_whole_has_everything():
    assert [UNSHARDED.local_layer(spec) for spec in MIMO.layers] == list(MIMO.layers)
    assert (
        UNSHARDED.expert_range(256)
        == UNSHARDED.tensor_range(256)
        == UNSHARDED.kv_head_range(256)
        == range(256)
    )


def test_a_share_of_mimo():
    dense, sliding = (
        ParallelConfig(32, 4, 8).shard_spec(5).local_layer(spec) for spec in MIMO.layers[:2]
    )
    assert (dense.attention.num_heads, dense.attention.num_kv_heads, dense.intermediate_size) == (
        16,
        1,
        4096,
    )
    assert (sliding.attention.num_heads, sliding.attention.num_kv_heads) == (16, 2)
    assert sliding.intermediate_size == 2048
    assert sliding.num_experts == 256
    assert ParallelConfig(32, 4, 8).shard_spec(5).expert_range(256) == range(40, 48)
    assert (
        ParallelConfig(64, 64).shard_spec(63).local_layer(MIMO.layers[0]).attention.num_kv_heads
        == 1
    )


@given(plans())
def test_ranks_have_as_many_different_shares_as_needed(plan):
    shards = {plan.shard_spec(rank) for rank in range(plan.world_size)}
    assert len(shards) == lcm(plan.tensor_parallel_size, plan.expert_parallel_size)
    listed = all_shard_specs(plan.expert_parallel_size, plan.tensor_parallel_size)
    for rank in range(plan.world_size):
        assert plan.shard_spec(rank) == listed[rank % len(listed)]


def test_experts_are_spread_over_the_world_by_default():
    assert ParallelConfig(tensor_parallel_size=4, data_parallel_size=8).expert_parallel_size == 32
    assert ParallelConfig(2, tensor_parallel_size=4, data_parallel_size=8).expert_parallel_size == 2


@pytest.mark.parametrize("devices", [1, 2, 32, 64, 256])
def test_num_devices_is_a_plan(devices):
    config = replace(MIMO, num_devices=devices)
    plan = ParallelConfig.from_num_devices(config)
    plan.check(config)
    assert plan.world_size == plan.expert_parallel_size == devices
    shard = plan.shard_spec(devices - 1)
    assert len(shard.expert_range(256)) == config.experts_per_device == 256 // devices


@pytest.mark.parametrize("tensor_parallel", POWERS)
def test_mimo_admits_every_power_of_two_up_to_its_heads(tensor_parallel):
    ParallelConfig(tensor_parallel, tensor_parallel).check(MIMO)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((1, 0, 1), "tensor_parallel_size = 0: allowed is an integer above 0"),
        ((1, 1, -2), "data_parallel_size = -2: allowed"),
        ((0, 1, 1), "expert_parallel_size = 0: allowed"),
        (
            (3, 2, 2),
            r"expert_parallel_size = 3: allowed is a divisor of the 4 ranks \(data_parallel_size 2",
        ),
        ((8, 2, 2), "expert_parallel_size = 8: allowed is a divisor of the 4 ranks"),
        ((1, 1, 2**16 + 1), "65537 ranks: allowed are at most 65536"),
        ((1, 2, 2**15 + 1), "65538 ranks: allowed are at most 65536"),
    ],
)
def test_an_impossible_plan_is_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(*numbers)


@pytest.mark.parametrize(
    ("plan", "config", "message"),
    [
        (
            ParallelConfig(7, 1, 7),
            MIMO,
            "expert_parallel_size = 7: allowed is a divisor of 256 experts",
        ),
        (
            ParallelConfig(1, 128, 1),
            MIMO,
            "tensor_parallel_size = 128: allowed is a divisor of 64 query heads",
        ),
        (
            ParallelConfig(1, 5, 1),
            SMALL,
            "tensor_parallel_size = 5: allowed is a divisor of 12 .* 3 KV heads",
        ),
        (
            ParallelConfig(1, 4, 1),
            replace(MIMO, intermediate_size=6),
            "tensor_parallel_size = 4: allowed is a divisor of the dense width, 6",
        ),
        (
            ParallelConfig(1, 2, 1),
            SMALL,
            "a divisor of 12 query heads that divides 3 KV heads or is a",
        ),
    ],
)
def test_a_plan_that_the_model_does_not_admit_is_refused(plan, config, message):
    with pytest.raises(ValueError, match=message):
        plan.check(config)
