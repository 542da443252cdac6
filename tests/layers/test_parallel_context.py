"""Parallel context: a rank's groups, its rows, and how many tokens each rank dispatches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.layers.eager_dispatchers import (
    EAGER_ALL_GATHER_TOKENS,
    PaddedAllGatherDispatcher,
    RaggedAllToAllDispatcher,
)
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.spread import plans


def on_ranks(plan: ParallelConfig, program, **options) -> list:
    """Return the output of `program(context)` on every rank."""
    group = ThreadGroup(plan.world_size)
    return group.run(lambda _: program(ParallelContext(plan, group, **options)))


@given(plans(8))
def test_groups_are_those_of_the_plan(plan):
    def group_ranks(context: ParallelContext):
        heads = context.tensor_group.all_gather(np.array([context.world_group.rank]))
        experts = context.expert_group.all_gather(np.array([context.world_group.rank]))
        assert heads[context.rank_ids.tensor_rank_1[0]] == context.world_group.rank
        assert experts[context.rank_ids.expert_rank_1[0]] == context.world_group.rank
        return heads.ravel().tolist(), experts.ravel().tolist()

    for rank, (heads, experts) in enumerate(on_ranks(plan, group_ranks)):
        assert heads == list(plan.tensor_group_ranks(rank))
        assert experts == list(plan.expert_group_ranks(rank))


@given(plans(8), st.integers(1, 12))
def test_every_row_is_on_one_data_parallel_rank(plan, batch_size):
    def rows(context: ParallelContext):
        return context.rank_rows(batch_size), context.data_parallel_rank

    outputs = on_ranks(plan, rows)
    rank_rows = outputs[0][0]
    assert [row for part in rank_rows for row in range(batch_size)[part]] == [*range(batch_size)]
    assert [others for others, _ in outputs] == [rank_rows] * plan.world_size
    for rank, (_, index) in enumerate(outputs):
        assert range(batch_size)[rank_rows[index]] == plan.batch_range(rank, batch_size)


def test_an_exchange_may_be_chosen_or_follows_the_size_of_a_step():
    spec, few = MiMoConfig().layers[1], EAGER_ALL_GATHER_TOKENS
    for tokens in (1, 100):
        for name, dispatcher in (
            ("all_gather", PaddedAllGatherDispatcher(tokens)),
            ("all_to_all", RaggedAllToAllDispatcher()),
        ):
            context = ParallelContext(ParallelConfig(), SoloGroup(), name)
            assert context.dispatchers(spec, tokens, tokens) == (dispatcher,)
    free = ParallelContext(ParallelConfig(), SoloGroup())
    assert free.dispatchers(spec, few, few) == (PaddedAllGatherDispatcher(few),)
    assert free.dispatchers(spec, few + 1, few + 1) == (RaggedAllToAllDispatcher(),)


def test_ranks_that_share_heads_dispatch_a_part_of_the_tokens_each():
    def dispatchers(context: ParallelContext):
        return context.dispatchers(MiMoConfig().layers[1], tokens=9, longest=5)

    plan = ParallelConfig(4, 2, 2)
    assert on_ranks(plan, dispatchers) == [(PaddedAllGatherDispatcher(3),)] * 4


def test_a_plan_for_another_world_and_an_unknown_exchange_are_refused():
    message = "world size mismatch: the parallel config has 32 ranks, the process group has 1"
    with pytest.raises(ValueError, match=message):
        ParallelContext(ParallelConfig(data_parallel_size=32), SoloGroup())
    with pytest.raises(ValueError, match="exchange 'letter': allowed is all_gather or all_to_all"):
        ParallelContext(ParallelConfig(), SoloGroup(), "letter")


def test_ranks_with_different_plans_are_told_apart():
    one, other = ParallelConfig(4, 1, 4), ParallelConfig(4, 2, 2)
    group, by_rank = ThreadGroup(4), [one, other, one, one]
    message = (
        r"plan: .*tensor_parallel_size=1.*\) on ranks 0, 2, 3; .*tensor_parallel_size=2.* on rank 1"
    )
    with pytest.raises(ValueError, match=message):
        group.run(lambda rank: ParallelContext(by_rank[rank], group))


def test_facts_are_compared_and_arrays_by_what_they_hold():
    def differs(context: ParallelContext) -> None:
        context.check_consistent(token_BT=np.arange(3), config="tiny")
        token_BT = np.array([5, 6 + (context.world_group.rank == 1)])
        with pytest.raises(ValueError, match=r"token_BT: \(\(2,\), \[5, 6\]\) on rank 0; "):
            context.check_consistent(config="tiny", token_BT=token_BT)

    on_ranks(ParallelConfig(2, 1, 2), differs)
