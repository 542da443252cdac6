"""Traffic: counted bytes equal those that ranks send; expected ranks equal the mean."""

from itertools import combinations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload, traffic
from mimo_v2_flash.costs.traffic import ranks_of_token
from mimo_v2_flash.parallel import InstrumentedGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.spread import admitting, plans
from tests.support.tiny import KINDS, Recipe, random_tokens, running, tiny

MIMO = MiMoConfig()
SPARSE = (KINDS[1], KINDS[3])  # layers of experts, full and sliding


def sent(model, plan, batch_size, step, exchange) -> dict[str, int]:
    """Return the bytes that all ranks sent in one step, by kind of group."""
    group = ThreadGroup(plan.world_size)
    token_BT = random_tokens(model, batch_size, step)

    def program(rank: int):
        rank_model = running(model, group=InstrumentedGroup(group), plan=plan, exchange=exchange)
        rank_model.forward(token_BT)
        context = rank_model._context
        return [
            sum(stats.sent for stats in getattr(subgroup, "stats", {}).values())
            for subgroup in (context.expert_group, context.tensor_group)
        ]

    experts, heads = zip(*group.run(program), strict=True)
    return {"experts": sum(experts), "heads": sum(heads)}


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from([2, 4, 8]), st.integers(1, 6), st.integers(1, 7))
def test_all_gather_and_heads_send_as_counted(data, world, batch_size, step):
    plan = data.draw(plans(world))
    # Rows of bytes that divide by all ranks: a sum is counted in whole parts.
    model = tiny(admitting(Recipe(layers=SPARSE, hidden=24, experts=8), plan))
    counted = traffic(model.config, plan, Workload(batch_size, step, step), step=step)
    actual = sent(model, plan, batch_size, step, "all_gather")
    tokens = batch_size * step * len(SPARSE)
    assert actual["experts"] == pytest.approx(counted.all_gather * tokens)
    assert actual["heads"] == pytest.approx(counted.tensor_parallel * tokens)


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([2, 4, 8]), st.integers(1, 6), st.integers(1, 7))
def test_all_to_all_sends_as_counted_where_every_expert_is_chosen(data, world, batch_size, step):
    plan = data.draw(plans(world))
    recipe = admitting(Recipe(layers=SPARSE, experts=8, experts_per_token=8), plan)
    model = tiny(recipe)
    counted = traffic(model.config, plan, Workload(batch_size, step, step), step=step)
    assert counted.ranks == pytest.approx(plan.expert_parallel_size - 1)
    actual = sent(model, plan, batch_size, step, "all_to_all")
    assert actual["experts"] == pytest.approx(counted.all_to_all * batch_size * step * len(SPARSE))


@given(st.sampled_from([(8, 1), (8, 2), (6, 3), (9, 9), (10, 5)]), st.integers(1, 4))
def test_expected_ranks_are_the_mean_over_all_choices(sizes, experts_per_token):
    experts, ranks = sizes
    recipe = Recipe(layers=SPARSE[:1], experts=experts, experts_per_token=experts_per_token)
    spec = tiny(recipe).config.layers[0]
    of_expert = [expert * ranks // experts for expert in range(experts)]
    choices = combinations(range(experts), experts_per_token)
    counts = [len({of_expert[expert] for expert in choice}) for choice in choices]
    assert ranks_of_token(spec, ranks) == pytest.approx(np.mean(counts))


@pytest.mark.parametrize(
    ("ranks", "expected", "sent_bytes"), [(32, 7.27, 59_556), (64, 7.68, 62_915)]
)
def test_mimo_on_32_and_64_ranks(ranks, expected, sent_bytes):
    """Source: a simulation of uniform routing; bytes of bfloat16 rows, own rank included."""
    actual = ranks_of_token(MIMO.layers[1], ranks)
    assert round(actual, 2) == expected
    assert actual * 4096 * 2 == pytest.approx(sent_bytes, rel=1e-3)


def test_bfloat16_halves_all_but_routing_and_the_expert_outputs_of_all_gather():
    plan, workload = ParallelConfig(32, 1, 32), Workload(32, 512, 512)
    wide = traffic(MIMO, plan, workload, step=512)
    narrow = traffic(
        MIMO, plan, Workload(32, 512, 512, activation_dtype=ml_dtypes.bfloat16), step=512
    )
    assert narrow.lower_bound * 2 == wide.lower_bound
    assert wide.all_to_all / wide.lower_bound == pytest.approx(1 + 64 / (2 * 4 * 4096))
    assert narrow.all_gather == 31 * (2 * 4096 + 64 + 4 * 4096)


def test_padding_of_ranks_without_tokens_is_sent_by_all_gather():
    one = traffic(MIMO, ParallelConfig(8, 1, 8), Workload(1, 1, 1), step=1)
    full = traffic(MIMO, ParallelConfig(8, 1, 8), Workload(8, 1, 1), step=1)
    assert one.all_gather == 8 * full.all_gather
    assert one.all_to_all == full.all_to_all


def test_without_experts_or_other_ranks_nothing_is_sent():
    dense = tiny(Recipe(layers=(KINDS[0],))).config
    assert traffic(dense, ParallelConfig(4, 1, 4), Workload(1, 1, 1), step=1) == (0, 0, 0, 0, 0)
    assert traffic(MIMO, ParallelConfig(), Workload(1, 1, 1), step=1) == (0, 0, 0, 0, 0)
