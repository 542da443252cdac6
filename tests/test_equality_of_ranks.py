"""Equality of ranks: any number of them, split in any way, gives the result of one rank.

Ranks are threads with real collectives; every (token, expert) pair is counted (`support.spread`).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.generation.generation_config import GenerationConfig
from mimo_v2_flash.layers.hooks import HookedLayers
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.drawn import seeds
from tests.support.oracle import decided, decided_tokens
from tests.support.rows import chunkings, prefill, ragged
from tests.support.spread import DISPATCHERS, admitting, dispatchers, favouring, on_ranks, plans
from tests.support.tiny import Recipe, random_tokens, recipes, running, tiny


def assert_ranks_are_one(model, plan, rows, data, **options) -> None:
    """Assert that logits of rows in drawn chunks, and generated tokens, are those of one rank."""
    for row in rows:
        decided(model, row)
    chunks = [data.draw(chunkings(len(row))) for row in rows]
    prompts = [row[: data.draw(st.integers(1, len(row)))] for row in rows]

    def outputs(ours):
        cache = ours.new_cache(len(rows), max(map(len, rows)))
        logits = np.concatenate(prefill(ours, cache, rows, chunks))
        return logits, ours.generate(prompts, max_new_tokens=4, eos_token_id=[])

    expected_NV, expected = outputs(running(model))
    max_step = data.draw(st.sampled_from([3, 512]))
    logits_NV, tokens = on_ranks(model, plan, outputs, max_step=max_step, **options)
    assert_agrees(logits_NV, expected_NV, scale=float(np.ptp(expected_NV)))
    for prompt, new in zip(prompts, expected, strict=True):
        decided_tokens(decided(model, [*prompt, *new])[len(prompt) - 1 : -1])
    assert tokens == expected


def assert_same_logits(model, plan, token_BT, **options) -> None:
    expected_BTV = running(model).forward(token_BT)
    logits_BTV = on_ranks(model, plan, lambda ours: ours.forward(token_BT), **options)
    assert_agrees(logits_BTV, expected_BTV, scale=float(np.ptp(expected_BTV)))


@settings(max_examples=25)
@given(st.data(), st.sampled_from([2, 4, 8]), recipes(), dispatchers, seeds)
def test_any_split_over_a_few_ranks_is_one_rank(data, world, recipe, exchange, seed):
    plan = data.draw(plans(world))
    model = tiny(admitting(recipe, plan))
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=9))
    rows = [random_tokens(model, length, seed=seed + row) for row, length in enumerate(lengths)]
    assert_ranks_are_one(model, plan, rows, data, exchange=exchange)


@pytest.mark.distributed
@pytest.mark.parametrize("world", [32, 64])
@settings(max_examples=12)
@given(st.data(), recipes(), dispatchers, seeds)
def test_any_split_over_many_ranks_is_one_rank(world, data, recipe, exchange, seed):
    plan = data.draw(plans(world))
    model = tiny(admitting(recipe, plan))
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=70))
    rows = [random_tokens(model, length, seed=seed + row) for row, length in enumerate(lengths)]
    assert_ranks_are_one(model, plan, rows, data, exchange=exchange)


@pytest.mark.parametrize("exchange", DISPATCHERS)
@pytest.mark.parametrize(
    "plan", [ParallelConfig(8, 1, 8), ParallelConfig(4, 2, 2), ParallelConfig(8, 8)], ids=str
)
def test_all_tokens_may_choose_the_experts_of_one_rank(plan, exchange):
    model = tiny(admitting(Recipe(experts=16, experts_per_token=2), plan))
    count = model.config.n_routed_experts // plan.expert_parallel_size
    model = favouring(model, slice(count, 2 * count))  # the experts of the second rank
    token_BT = random_tokens(model, 5, 20)
    assert_same_logits(model, plan, token_BT, exchange=exchange)


@pytest.mark.parametrize("exchange", DISPATCHERS)
@pytest.mark.parametrize(
    "plan",
    [
        ParallelConfig(64, 1, 64),
        ParallelConfig(64, 64),
        ParallelConfig(16, 8, 8),
        ParallelConfig(2, 4, 16),
    ],
    ids=str,
)
@pytest.mark.distributed
def test_one_token_in_all_on_64_ranks(plan, exchange):
    model = tiny(admitting(Recipe(), plan))
    token_BT = random_tokens(model, 1, 1)
    assert_same_logits(model, plan, token_BT, exchange=exchange)


@pytest.mark.parametrize("cache_dtype", ["float32", "int8"])
def test_drawn_tokens_are_those_of_one_rank(cache_dtype):
    plan = ParallelConfig(4, 2, 2)
    model = tiny(admitting(Recipe(), plan))
    prompts = [random_tokens(model, length, seed=length) for length in (9, 1, 5)]
    options = {"temperature": 1.2, "top_p": 0.9, "seed": 3, "max_new_tokens": 12}
    options |= {"cache_dtype": cache_dtype}
    expected = running(model).generate(prompts, **options)
    assert on_ranks(model, plan, lambda m: m.generate(prompts, **options)) == expected


@pytest.mark.parametrize("plan", [ParallelConfig(4, 2, 2), ParallelConfig(2, 1, 2)], ids=str)
def test_a_fresh_seed_is_the_same_on_all_ranks(plan):
    model = tiny(admitting(Recipe(), plan))
    prompts = [random_tokens(model, length, seed=length) for length in (9, 1, 5)]

    def drawn(ours):
        tokens = ours.generate(prompts, temperature=1.2, max_new_tokens=3)
        return tokens, tokens.seed

    tokens, seed = on_ranks(model, plan, drawn)
    options = {"temperature": 1.2, "max_new_tokens": 3}
    assert running(model).generate(prompts, seed=seed, **options) == tokens


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seed", [{"seed": 1}, {"seed": 2}]),
        ("top_k", [{"top_k": 5}, {}]),
        ("stop_token_ids", [{"eos_token_id": 3}, {"eos_token_id": [4, 3]}]),
        ("max_tokens", [{"max_new_tokens": 3}, {"max_new_tokens": 4}]),
    ],
)
def test_ranks_that_would_generate_otherwise_are_named_before_any_step(name, options):
    group, plan = ThreadGroup(2), ParallelConfig(2, 1, 2)
    model = tiny(admitting(Recipe(), plan))

    def program(rank):
        ours = running(model, group=group, plan=plan)
        ours.generate([[1, 2]], on_token=pytest.fail, **{"seed": 0} | options[rank])

    with pytest.raises(ValueError, match=f"^ranks do not agree on {name}: .* on rank 0; .* rank 1"):
        group.run(program)


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_ranks_draw_no_suppressed_token(temperature):
    plan = ParallelConfig(4, 2, 2)
    model = tiny(admitting(Recipe(), plan))
    prompts = [random_tokens(model, length, seed=length) for length in (9, 1, 5)]
    options = {"temperature": temperature, "seed": 3, "max_new_tokens": 9, "eos_token_id": []}
    free = {token for row in running(model).generate(prompts, **options) for token in row}
    options["generation_config"] = GenerationConfig(suppress_tokens=(*sorted(free),))
    expected = running(model).generate(prompts, **options)
    assert not free & {token for row in expected for token in row}
    assert on_ranks(model, plan, lambda ours: ours.generate(prompts, **options)) == expected


@pytest.mark.parametrize("exchange", DISPATCHERS)
@pytest.mark.parametrize(
    "plan", [ParallelConfig(4, 1, 4), ParallelConfig(8, 4, 2), ParallelConfig(2, 2, 2)], ids=str
)
def test_a_view_may_lie_across_ranks_or_on_one_alone(plan, exchange):
    model = tiny(admitting(Recipe(), plan))
    token_BT = random_tokens(model, 6, 5)
    position_BT = np.broadcast_to(np.arange(5), (6, 5))
    expected_BTV = running(model).forward(token_BT)

    def program(ours):
        cache, logits = ours.new_cache(6, 9), np.zeros_like(expected_BTV)
        for rows in (slice(1, 5), slice(0, 1), slice(5, 6)):
            view = cache.view(rows.start, rows.stop)
            logits[rows] = ours.step(token_BT[rows], position_BT[rows], view)
        return logits, cache.length_B

    logits_BTV, length_B = on_ranks(model, plan, program, exchange=exchange)
    assert_agrees(logits_BTV, expected_BTV, scale=float(np.ptp(expected_BTV)))
    assert length_B.tolist() == [5] * 6


@pytest.mark.parametrize("plan", [ParallelConfig(4, 1, 4), ParallelConfig(4, 2, 2)], ids=str)
def test_ranks_compute_their_tokens_and_no_padding(plan):
    """With the ragged exchange every rank brings as many tokens as its rows have."""
    model, group = tiny(admitting(Recipe(), plan)), ThreadGroup(4)
    lengths = [9, 2, 5, 0, 1]
    step = ragged([random_tokens(model, length) for length in lengths], [0] * 5)

    def routed(rank: int) -> int:
        tokens = []

        def hook(call):
            if call.part == "moe":
                position_N, ids = call.args[1:3]
                part = call.function.split_tokens(position_N, ids.tensor_rank_1, T, padding=-1)
                assert np.all(part >= 0)
                tokens.append(len(part))

        T = plan.tensor_parallel_size
        options = {"group": group, "plan": plan, "exchange": "all_to_all"}
        ours = running(model, backend=HookedLayers(hook), **options)
        ours.step(*step, ours.new_cache(5, 9))
        assert len(set(tokens)) == 1
        return tokens[0]

    assert sum(group.run(routed)) == sum(lengths)
