"""Dispatch statistics of known traffic: all tokens to one rank, one token, every expert, many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.layers import dispatch_stats
from mimo_v2_flash.layers.dispatch_stats import DispatchStats, DispatchStatsBackend
from mimo_v2_flash.layers.eager_dispatchers import RaggedAllToAllDispatcher
from mimo_v2_flash.layers.hooks import HookedLayers
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.spread import admitting, dispatchers, favouring, plans
from tests.support.tiny import KINDS, Recipe, random_tokens, recipes, running, tiny

SPARSE = (KINDS[1], KINDS[0], KINDS[3])  # two layers of experts, and a dense one between them
LAYERS = 2
RECIPE = Recipe(layers=SPARSE, experts=16, experts_per_token=2)
D, A = RECIPE.hidden, RECIPE.experts_per_token
TOKEN_AND_OUTPUT, ROUTING = 2 * D * 4, A * (4 + 4)  # bytes


def recorded(
    model, plan, token_BT, dispatcher=None
) -> tuple[dict[str, DispatchStats], list, np.ndarray]:
    """Return the statistics of one step, summed over all ranks and of each rank, and the logits."""
    group = ThreadGroup(plan.world_size)

    def program(rank: int):
        backend = DispatchStatsBackend()
        ours = running(model, group=group, plan=plan, backend=backend, exchange=dispatcher)
        logits = ours.forward(token_BT)
        return (
            {name: stats.total(group) for name, stats in backend.by_dispatcher.items()},
            backend.by_dispatcher,
            logits,
        )

    totals, by_rank, logits = zip(*group.run(program), strict=True)
    for other in totals[1:]:
        np.testing.assert_equal(vars(other["all_to_all"]), vars(totals[0]["all_to_all"]))
    return totals[0], list(by_rank), logits[0]


@settings(max_examples=10, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 4]), recipes(), dispatchers, st.integers(1, 20))
def test_recording_changes_nothing_and_no_pair_is_lost(data, world, recipe, dispatcher, length):
    plan = data.draw(plans(world))
    model = tiny(admitting(recipe, plan))
    token_BT = random_tokens(model, 3, length)
    group = ThreadGroup(world)
    totals, _, logits = recorded(model, plan, token_BT, dispatcher)
    options = {"group": group, "plan": plan, "exchange": dispatcher}
    plain = group.run(lambda _: running(model, **options).forward(token_BT))[0]
    np.testing.assert_array_equal(logits, plain)
    sparse = [spec for spec in model.config.layers if spec.num_experts]
    assert sum(stats.tokens for stats in totals.values()) == token_BT.size * len(sparse)
    for stats in totals.values():
        assert stats.computed == stats.pairs == stats.tokens * model.config.num_experts_per_tok


@pytest.mark.parametrize(
    "plan", [ParallelConfig(8, 1, 8), ParallelConfig(4, 2, 2), ParallelConfig(2, 1, 4)], ids=str
)
def test_all_tokens_to_one_rank(plan):
    """Of each expert group, the second rank gets all tokens; its local tokens are not sent."""
    P = plan.expert_parallel_size
    model = favouring(tiny(admitting(RECIPE, plan)), slice(16 // P, 2 * (16 // P)))
    token_BT = random_tokens(model, 8, 5)  # as many on every rank
    totals, by_rank, _ = recorded(model, plan, token_BT, "all_to_all")
    stats = totals["all_to_all"]
    away = LAYERS * token_BT.size * (P - 1) / P
    assert stats.tokens == LAYERS * token_BT.size
    assert stats.lower_bound == away * TOKEN_AND_OUTPUT
    assert stats.sent == away * (TOKEN_AND_OUTPUT + ROUTING)
    of_group = token_BT.size * P // plan.world_size
    busy = [rank for rank, local in enumerate(by_rank) if local["all_to_all"].computed]
    assert busy == list(range(1, plan.world_size, P))
    assert {n: int(stats.tokens_per_rank[n]) for n in np.flatnonzero(stats.tokens_per_rank)} == {
        0: LAYERS * (plan.world_size - len(busy)),
        of_group: LAYERS * len(busy),
    }
    assert totals["all_gather"].calls == 0


def test_one_token_on_eight_ranks():
    """It is sent to the ranks of its experts, but for rank 7, which has the only row."""
    model, plan = tiny(RECIPE), ParallelConfig(8, 1, 8)
    token_BT = random_tokens(model, 1, 1)
    chosen = []

    def hook(call):
        if call.part == "experts":
            chosen.append({int(expert) // 2 for expert in call.args[2][0]})

    running(model, backend=HookedLayers(hook)).forward(token_BT)
    messages = sum(len(ranks - {7}) for ranks in chosen)
    stats = recorded(model, plan, token_BT, "all_to_all")[0]["all_to_all"]
    assert (stats.tokens, stats.pairs) == (LAYERS, LAYERS * A)
    assert stats.lower_bound == messages * TOKEN_AND_OUTPUT
    assert stats.sent == messages * (TOKEN_AND_OUTPUT + ROUTING)
    assert stats.tokens_per_expert.tolist() == [LAYERS * (16 - A), LAYERS * A]


def test_every_expert_for_every_token():
    recipe = Recipe(layers=SPARSE, experts=8, experts_per_token=8)
    token_BT = random_tokens(tiny(recipe), 4, 6)
    stats = recorded(tiny(recipe), ParallelConfig(4, 1, 4), token_BT, "all_to_all")[0]["all_to_all"]
    assert stats.lower_bound == LAYERS * token_BT.size * 3 * TOKEN_AND_OUTPUT
    for loads, holders in ((stats.tokens_per_expert, 8), (stats.tokens_per_rank, 4)):
        assert loads[token_BT.size] == np.sum(loads) == LAYERS * holders


def test_all_gather_sends_every_token_to_every_rank():
    model = tiny(RECIPE)
    token_BT = random_tokens(model, 4, 3)
    stats = recorded(model, ParallelConfig(4, 1, 4), token_BT)[0]["all_gather"]  # 12 tokens are few
    assert stats.sent == LAYERS * token_BT.size * 3 * (TOKEN_AND_OUTPUT + ROUTING)
    assert 0 < stats.lower_bound < stats.sent
    assert stats.calls == LAYERS * 4
    assert stats.dispatch_seconds > 0
    assert stats.expert_seconds > 0


def test_512_tokens_on_8_ranks_send_little_more_than_the_least():
    recipe = Recipe(layers=SPARSE, experts=16, experts_per_token=4, hidden=128)
    model = tiny(recipe)
    stats = recorded(model, ParallelConfig(8, 1, 8), random_tokens(model, 8, 64))[0]["all_to_all"]
    assert stats.tokens == LAYERS * 512
    assert stats.lower_bound < stats.sent < 1.1 * stats.lower_bound


def test_a_pair_that_is_lost_on_its_way_is_seen(monkeypatch):
    right = RaggedAllToAllDispatcher.__call__

    def lossy(self, x_ND, weight_NA, expert_NA, expert_fn, *, group, num_experts):
        expert_NA = np.where(np.arange(len(expert_NA))[:, None] == 0, num_experts, expert_NA)
        tokens = x_ND, weight_NA, expert_NA
        return right(self, *tokens, expert_fn, group=group, num_experts=num_experts)

    monkeypatch.setattr(RaggedAllToAllDispatcher, "__call__", lossy)
    model = tiny(RECIPE)
    stats = recorded(model, ParallelConfig(2, 1, 2), random_tokens(model, 2, 4), "all_to_all")[0][
        "all_to_all"
    ]
    assert stats.pairs - stats.computed == LAYERS * 2 * A


def test_alone_nothing_is_sent():
    backend = DispatchStatsBackend()
    running(tiny(RECIPE), backend=backend).forward(random_tokens(tiny(RECIPE), 1, 9))
    stats = backend.by_dispatcher["all_gather"].total(SoloGroup())
    assert (stats.sent, stats.lower_bound, stats.tokens) == (0, 0, LAYERS * 9)


@given(st.lists(st.integers(0, 30), max_size=9), st.lists(st.integers(0, 30), max_size=9))
def test_loads_of_different_lengths_are_added(one, other):
    added = dispatch_stats._add_histograms(np.bincount(one), np.bincount(other))
    np.testing.assert_array_equal(np.trim_zeros(added, "b"), np.bincount(one + other))
