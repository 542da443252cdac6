"""A rank knows its groups, its rows, and how many tokens every rank takes to the experts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.moe_block import by_all_gather
from mimo_v2_flash.layers.eager_dispatchers import FEW_TOKENS, by_ragged_all_to_all
from mimo_v2_flash.layers.parallel_context import Ranks
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import Plan
from tests.support.rows import ragged
from tests.support.spread import plans


def on_ranks(plan: Plan, program, **options) -> list:
    """Return what `program(ranks)` says on every rank."""
    group = ThreadGroup(plan.world)
    return group.run(lambda _: program(Ranks(plan, group, **options)))


def positions_of(lengths: list[int]) -> np.ndarray:
    return ragged([[0] * length for length in lengths], [0] * len(lengths))[1]


@given(plans(8))
def test_groups_are_those_of_the_plan(plan):
    def numbers(ranks: Ranks):
        heads = ranks.heads.all_gather(np.array([ranks.world.rank]))
        experts = ranks.experts.all_gather(np.array([ranks.world.rank]))
        assert heads[ranks.number.tensor_rank_1[0]] == ranks.world.rank
        assert experts[ranks.number.expert_rank_1[0]] == ranks.world.rank
        return heads.ravel().tolist(), experts.ravel().tolist()

    for rank, (heads, experts) in enumerate(on_ranks(plan, numbers)):
        assert heads == list(plan.tensor_group(rank))
        assert experts == list(plan.expert_group(rank))


@given(plans(8), st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_every_rank_says_the_same_and_takes_enough(plan, lengths):
    position_BT = positions_of(lengths)
    own, *others = on_ranks(plan, lambda ranks: ranks.own_tokens(position_BT, 99))
    assert others == [own] * (plan.world - 1)
    shares = [
        len(rows) * max((lengths[row] for row in rows), default=0)
        for rows in (plan.rows(rank, len(lengths)) for rank in range(plan.world))
    ]
    assert own * plan.tensor_parallel - max(shares) in range(plan.tensor_parallel)


def test_an_exchange_may_be_chosen_or_follows_the_size_of_a_step():
    spec, few = MiMoConfig().layers[1], FEW_TOKENS
    for name, function in (("all_gather", by_all_gather), ("all_to_all", by_ragged_all_to_all)):
        for tokens in (1, 100):
            chosen = Ranks(Plan(), SoloGroup(), name).exchanges(spec, tokens, tokens)
            assert chosen == (function,)
    free = Ranks(Plan(), SoloGroup())
    assert free.exchanges(spec, few, few) == (by_all_gather,)
    assert free.exchanges(spec, few + 1, few + 1) == (by_ragged_all_to_all,)


def test_a_plan_for_another_world_and_an_unknown_exchange_are_refused():
    with pytest.raises(ValueError, match="the plan is for 32 ranks, the group has 1"):
        Ranks(Plan(data_parallel=32), SoloGroup())
    with pytest.raises(ValueError, match="exchange 'letter': allowed is all_gather or all_to_all"):
        Ranks(Plan(), SoloGroup(), "letter")


def test_ranks_with_different_plans_are_told_apart():
    group, mine = ThreadGroup(4), [Plan(4, 1, 4), Plan(4, 2, 2), Plan(4, 1, 4), Plan(4, 1, 4)]
    said = r"plan: Plan\(.*tensor_parallel=1.*\) on ranks 0, 2, 3; .*tensor_parallel=2.* on rank 1"
    with pytest.raises(ValueError, match=said):
        group.run(lambda rank: Ranks(mine[rank], group))


def test_facts_are_compared_and_arrays_by_what_they_hold():
    def differs(ranks: Ranks) -> None:
        ranks.agree(token_BT=np.arange(3), config="tiny")
        token_BT = np.array([5, 6 + (ranks.world.rank == 1)])
        with pytest.raises(ValueError, match=r"token_BT: \(\(2,\), \[5, 6\]\) on rank 0; "):
            ranks.agree(config="tiny", token_BT=token_BT)

    on_ranks(Plan(2, 1, 2), differs)
