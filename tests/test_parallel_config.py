"""Every head, expert and row has an owner, whatever the plan; impossible plans are refused."""

from dataclasses import replace
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.parallel_config import WHOLE, Plan, shares_of
from tests.support.config_files import SMALL

MIMO = MiMoConfig()
POWERS = [1, 2, 4, 8, 16, 32, 64]


@st.composite
def plans(draw) -> Plan:
    tensor, data = draw(st.sampled_from(POWERS)), draw(st.integers(1, 9))
    world = tensor * data
    divisors = [size for size in range(1, world + 1) if world % size == 0]
    return Plan(draw(st.sampled_from([None, *divisors])), tensor, data)


def joined(parts) -> list[int]:
    return [item for part in parts for item in part]


@given(plans(), st.integers(0, 40))
def test_every_row_is_in_one_share_of_the_batch_and_shares_are_even(plan, batch_size):
    parts = [plan.rows(rank, batch_size) for rank in range(0, plan.world, plan.tensor_parallel)]
    assert joined(parts) == list(range(batch_size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for rank in range(plan.world):
        assert plan.rows(rank, batch_size) == parts[rank // plan.tensor_parallel]


@given(plans())
def test_groups_are_neighbours_and_cover_the_world(plan):
    for group_of, size in (
        (plan.tensor_group, plan.tensor_parallel),
        (plan.expert_group, plan.expert_share),
    ):
        groups = {group_of(rank) for rank in range(plan.world)}
        assert sorted(joined(groups)) == list(range(plan.world))
        assert {len(group) for group in groups} == {size}
        assert all(rank in group_of(rank) for rank in range(plan.world))


@given(plans(), st.sampled_from([4, 8]), st.sampled_from([64, 128]))
def test_every_group_has_every_expert_once_and_every_head(plan, kv_heads, heads):
    experts = 3 * plan.expert_share
    for rank in range(plan.world):
        shares = [plan.share(other) for other in plan.expert_group(rank)]
        assert joined(share.experts(experts) for share in shares) == list(range(experts))
        shares = [plan.share(other) for other in plan.tensor_group(rank)]
        assert joined(share.part(heads) for share in shares) == list(range(heads))
        assert sorted(set(joined(s.keys(kv_heads) for s in shares))) == list(range(kv_heads))


@given(plans(), st.sampled_from([4, 8]))
def test_a_query_head_lives_with_its_kv_head(plan, kv_heads):
    heads = 64
    for rank in range(plan.world):
        share = plan.share(rank)
        of_query = {query * kv_heads // heads for query in share.part(heads)}
        assert sorted(of_query) == list(share.keys(kv_heads))


def test_the_whole_has_everything():
    assert [WHOLE.layer(spec) for spec in MIMO.layers] == list(MIMO.layers)
    assert WHOLE.experts(256) == WHOLE.part(256) == WHOLE.keys(256) == range(256)


def test_a_share_of_mimo():
    dense, sliding = (Plan(32, 4, 8).share(5).layer(spec) for spec in MIMO.layers[:2])
    assert (dense.attention.heads, dense.attention.kv_heads, dense.feed_forward) == (16, 1, 4096)
    assert (sliding.attention.heads, sliding.attention.kv_heads) == (16, 2)
    assert sliding.feed_forward == 2048
    assert sliding.experts == 256
    assert Plan(32, 4, 8).share(5).experts(256) == range(40, 48)
    assert Plan(64, 64).share(63).layer(MIMO.layers[0]).attention.kv_heads == 1


@given(plans())
def test_ranks_have_as_many_different_shares_as_needed(plan):
    shares = {plan.share(rank) for rank in range(plan.world)}
    assert len(shares) == lcm(plan.tensor_parallel, plan.expert_share)
    listed = shares_of(plan.expert_share, plan.tensor_parallel)
    for rank in range(plan.world):
        assert plan.share(rank) == listed[rank % len(listed)]


def test_experts_are_spread_over_the_world_unless_said_otherwise():
    assert Plan(tensor_parallel=4, data_parallel=8).expert_share == 32
    assert Plan(2, tensor_parallel=4, data_parallel=8).expert_share == 2


@pytest.mark.parametrize("devices", [1, 2, 32, 64, 256])
def test_num_devices_is_a_plan(devices):
    config = replace(MIMO, num_devices=devices)
    plan = Plan.of_devices(config)
    plan.check(config)
    assert plan.world == plan.expert_share == devices
    share = plan.share(devices - 1)
    assert len(share.experts(256)) == config.experts_per_device == 256 // devices


@pytest.mark.parametrize("tensor_parallel", POWERS)
def test_mimo_admits_every_power_of_two_up_to_its_heads(tensor_parallel):
    Plan(tensor_parallel, tensor_parallel).check(MIMO)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1, 0, 1), "tensor_parallel = 0: allowed is an integer above 0"),
        ((1, 1, -2), "data_parallel = -2: allowed"),
        ((0, 1, 1), "expert_parallel = 0: allowed"),
        ((3, 2, 2), r"expert_parallel = 3: allowed is a divisor of the 4 ranks \(data_parallel 2"),
        ((8, 2, 2), "expert_parallel = 8: allowed is a divisor of the 4 ranks"),
    ],
)
def test_an_impossible_plan_is_refused(numbers, said):
    with pytest.raises(ValueError, match=said):
        Plan(*numbers)


@pytest.mark.parametrize(
    ("plan", "config", "said"),
    [
        (Plan(7, 1, 7), MIMO, "expert_parallel = 7: 256 experts are no multiple"),
        (Plan(1, 128, 1), MIMO, "tensor_parallel = 128: allowed is a divisor of 64 query heads"),
        (Plan(1, 5, 1), SMALL, "tensor_parallel = 5: allowed is a divisor of 12 .* 3 KV heads"),
        (
            Plan(1, 4, 1),
            replace(MIMO, intermediate_size=6),
            "tensor_parallel = 4: the dense width of 6 is no multiple",
        ),
        (Plan(1, 2, 1), SMALL, "a divisor of 12 query heads that divides 3 KV heads or is a"),
    ],
)
def test_a_plan_that_the_model_does_not_admit_is_refused(plan, config, said):
    with pytest.raises(ValueError, match=said):
        plan.check(config)
