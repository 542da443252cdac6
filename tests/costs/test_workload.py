"""Workload: validation errors name the number; tokens that each rank dispatches."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload
from mimo_v2_flash.parallel_config import ParallelConfig

WORKLOAD = Workload(batch_size=3, context=100, step=100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: allowed is an integer above 0"),
        ({"context": 0}, "context = 0: allowed is 1 to 262144 tokens"),
        ({"context": 262145}, "context = 262145: allowed is 1 to 262144 tokens"),
        ({"step": 0}, "step = 0: allowed is 1 to the context, 100"),
        ({"step": 101}, "step = 101: allowed is 1 to the context, 100"),
    ],
)
def test_what_is_not_allowed_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(WORKLOAD, **change).check(MiMoConfig())


def test_the_longest_is_allowed():
    replace(WORKLOAD, context=262144, step=262144).check(MiMoConfig())


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(1, 9))
def test_ranks_own_enough_tokens_and_none_could_own_fewer(batch_size, step, tensor, data):
    plan = ParallelConfig(tensor_parallel_size=tensor, data_parallel_size=data)
    local_tokens = replace(WORKLOAD, batch_size=batch_size).local_tokens(plan, step)
    fullest = max(len(plan.batch_range(rank, batch_size)) for rank in range(plan.world_size)) * step
    assert local_tokens * tensor >= fullest > (local_tokens - 1) * tensor
