"""engine: on a real model: requests as alone, as `forward`, static programs, ranks."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine import Engine, SamplingParams, prefix_store, scheduler
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.embedding import embed
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.engine_tiny import RECIPE, assert_same_answer, run_alone, small_model
from tests.support.spread import admitting, plans
from tests.support.tiny import running, tiny

V = RECIPE.vocabulary


class Arrival(NamedTuple):
    """A request of a schedule, and the step before which it comes."""

    prompt: list[int]
    params: SamplingParams
    step: int


def tokens_of(stem: int, common: int, rest: int) -> list[int]:
    """Return a prompt whose beginning others share."""
    parts = np.random.default_rng(stem).integers(0, V, common), range(rest % 7, V, 3)
    return [*map(int, parts[0]), *list(parts[1])[: rest + 1]]


prompts = st.builds(tokens_of, st.integers(0, 1), st.integers(0, 24), st.integers(0, 8))
params = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 8),
    temperature=st.sampled_from([0.0, 0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logprobs=st.sampled_from([None, 2]),
    prompt_logprobs=st.sampled_from([None, None, None, 1]),
    n=st.sampled_from([1, 1, 2]),
    seed=st.integers(0, 5),
)
arrivals = st.builds(Arrival, prompts, params, st.integers(0, 6))


def run(engine: Engine, schedule: list[Arrival]) -> list[Any]:
    """Return the results of a schedule's requests, in its order."""
    requests, ids = {}, {}
    for step in range(500):
        for number, each in enumerate(schedule):
            if each.step == step:
                ids[number] = engine.submit(each.prompt, each.params)
        requests |= engine._scheduler.requests
        if engine.has_work:
            engine.step()
        elif len(ids) == len(schedule):
            break
    return [requests[ids[number]].output() for number in range(len(schedule))]


def assert_as_alone(results, schedule, model, *, oracle=None, tolerance=2e-5, **options) -> None:
    for result, each in zip(results, schedule, strict=True):
        alone_N = run_alone(model, each.prompt, each.params, **options)
        for index, (one, two) in enumerate(zip(result.answers, alone_N, strict=True)):
            assert_same_answer(
                one,
                two,
                each.prompt,
                each.params,
                index=index,
                model=oracle,
                tolerance=tolerance,
            )


class StaticNumpy(NumpyBackend):
    """A static-mode backend on NumPy, which records how many tokens its programs take."""

    execution_mode = "static"

    def __init__(self) -> None:
        self.lengths: set[int] = set()

    def compile(self, function, *, donate=None):
        """Return `function`, which records its tokens if it is the first of a step."""

        def program(token_N, *args, **kwargs):
            self.lengths.add(len(token_N))
            return function(token_N, *args, **kwargs)

        return program if function is embed else function


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Blocks of four positions, so that short prompts share some."""
    for module in (prefix_store, scheduler):
        monkeypatch.setattr(module, "BLOCK", 4)


@settings(max_examples=12)
@given(
    st.lists(arrivals, min_size=2, max_size=5),
    st.integers(2, 4),
    st.sampled_from([3, 16, 64]),
    st.sampled_from([4, 512]),
    st.sampled_from([0, 6000, 1 << 20]),
    st.sampled_from([NumpyBackend, StaticNumpy]),
    st.integers(0, 3),
)
def test_each_request_is_answered_as_if_it_were_alone(
    schedule, rows, chunk, max_step, budget, backend, drafts
):
    model = small_model(max_step=max_step, backend=backend())
    options = {"prefill_chunk": chunk, "prefix_cache": budget, "draft_tokens": drafts}
    with Engine(model, rows, **options) as engine:
        results = run(engine, schedule)
    assert_as_alone(results, schedule, small_model())
    for result, each in zip(results, schedule, strict=True):
        if each.params.prompt_logprobs is not None:
            check_prompt_logprobs(result.prompt_logprobs, each.prompt)


def check_prompt_logprobs(logprobs, prompt) -> None:
    logits_TV = small_model().forward([prompt])[0].astype(np.float64)
    logits_TV -= np.max(logits_TV, axis=1, keepdims=True)
    logprob_TV = logits_TV - np.log(np.sum(np.exp(logits_TV), axis=1, keepdims=True))
    assert [each.token for each in logprobs] == prompt[1:]
    for each, logprob_V in zip(logprobs, logprob_TV, strict=False):
        assert each.logprob == pytest.approx(logprob_V[each.token], abs=1e-3)
        assert each.top[0][1] == pytest.approx(np.max(logprob_V), abs=1e-3)


MIXED = [
    Arrival(tokens_of(0, 22, 3), SamplingParams(max_tokens=7, logprobs=1, seed=0), 0),
    Arrival(tokens_of(0, 22, 5), SamplingParams(max_tokens=9, temperature=1.0, seed=1, n=2), 1),
    Arrival(tokens_of(1, 2, 2), SamplingParams(max_tokens=4, seed=0), 1),
    Arrival(
        tokens_of(1, 13, 0),
        SamplingParams(max_tokens=6, prompt_logprobs=0, temperature=0.7, seed=2),
        3,
    ),
    Arrival(tokens_of(0, 22, 3), SamplingParams(max_tokens=5, temperature=0.5, seed=3), 9),
]


def test_greedy_answers_are_those_of_forward_and_generate():
    model, prompts_ = small_model(), [each.prompt for each in MIXED]
    with Engine(model, 3, prefill_chunk=8) as engine:
        ids = [engine.submit(prompt, SamplingParams(max_tokens=6)) for prompt in prompts_]
        results = engine.run()
    generated = model.generate(prompts_, max_new_tokens=6)
    for id_, prompt, row in zip(ids, prompts_, generated, strict=True):
        known = list(prompt)
        for _ in range(6):
            known.append(int(np.argmax(model.forward([known])[0, -1])))
        assert results[id_].tokens == known[len(prompt) :] == row


@pytest.mark.parametrize(
    ("dtype", "cache_dtype"),
    [("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "int8"), ("bfloat16", "fp8")],
)
def test_rounded_requests_are_answered_as_alone_where_they_are_cut_alike(dtype, cache_dtype):
    """What a step reads of the cache is rounded, what it computes is not."""
    model = small_model(dtype=dtype)
    schedule = [each._replace(params=SamplingParams(max_tokens=6, logprobs=0)) for each in MIXED]
    options = {"cache_dtype": cache_dtype}
    with Engine(model, 4, prefix_cache=0, **options) as engine:
        results = run(engine, schedule)
    assert_as_alone(results, schedule, model, tolerance=0.02, **options)


@pytest.mark.parametrize("cache_dtype", ["int8", "fp8"])
def test_a_prefix_of_codes_is_reused(cache_dtype):
    prompt, answers = [token % V for token in range(3, 53)], []
    with Engine(small_model(), 2, cache_dtype=cache_dtype) as engine:
        for _ in range(2):
            id_ = engine.submit(prompt, SamplingParams(max_tokens=6))
            answers.append(engine.run()[id_].tokens)
        assert engine.stats.reused_tokens >= 32
    assert answers[0] == answers[1]


def test_static_programs_answer_alike_and_have_two_numbers_of_rows():
    backend, rows, chunk = StaticNumpy(), 5, 8
    model = small_model(backend=backend, max_step=40)
    shapes = set()
    with Engine(model, rows, prefill_chunk=chunk) as engine:
        forward = model.runner.forward

        def recorded(output, step, *args, **kwargs):
            shapes.add(step.token_BT.shape)
            return forward(output, step, *args, **kwargs)

        model.runner.forward = recorded
        results = run(engine, MIXED)
    assert_as_alone(results, MIXED, small_model())
    assert (rows, 1) in shapes
    assert {height for height, _ in shapes} == {1, rows}
    assert {width for height, width in shapes if height == rows} == {1}
    assert max(width for _, width in shapes) <= chunk
    assert rows in backend.lengths
    assert len(backend.lengths) <= 4  # decoding; a chunk of one, of four tokens, and a whole one


PLANS = [
    ParallelConfig(*sizes) for sizes in ((2, 1, 2), (2, 2, 1), (4, 2, 2), (4, 1, 4), (2, 4, 1))
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_ranks_answer_as_one(plan):
    oracle, group = tiny(admitting(RECIPE, plan)), ThreadGroup(plan.world_size)

    def on_rank(rank: int):
        model = running(oracle, group=group, plan=plan, max_length=64)
        with Engine(model, 8, prefill_chunk=8, prefix_cache=1 << 20) as engine:
            return run(engine, MIXED) if rank == 0 else engine.follow()

    first = group.run(on_rank)[0]
    assert_as_alone(first, MIXED, running(oracle, max_length=64), oracle=oracle)


@settings(max_examples=10)
@given(
    st.data(),
    st.sampled_from([2, 4, 8]),
    st.lists(arrivals, min_size=2, max_size=5),
    st.sampled_from([3, 16]),
    st.sampled_from([4, 512]),
    st.sampled_from([0, 12_000, 1 << 20]),
)
def test_any_schedule_on_any_ranks_is_answered_as_alone(
    data, world, schedule, chunk, max_step, budget
):
    plan = data.draw(plans(world))
    oracle, group = tiny(admitting(RECIPE, plan)), ThreadGroup(world)
    rows = plan.data_parallel_size * data.draw(st.integers(2, 3))

    def on_rank(rank: int):
        model = running(oracle, group=group, plan=plan, max_length=64, max_step=max_step)
        with Engine(model, rows, prefill_chunk=chunk, prefix_cache=budget) as engine:
            return run(engine, schedule) if rank == 0 else engine.follow()

    results = group.run(on_rank)[0]
    assert_as_alone(results, schedule, running(oracle, max_length=64), oracle=oracle)


@pytest.mark.parametrize("plan", [ParallelConfig(2, 1, 2), ParallelConfig(4, 2, 2)], ids=str)
def test_a_request_goes_to_the_rank_that_has_its_prefix(plan):
    oracle, group = tiny(admitting(RECIPE, plan)), ThreadGroup(plan.world_size)
    prompts = [tokens_of(seed, 24, 0) for seed in (0, 1)]

    def on_rank(rank: int):
        model = running(oracle, group=group, plan=plan, max_length=64)
        with Engine(model, 8, prefix_cache=1 << 20) as engine:
            if rank:
                return engine.follow()
            one, params = SamplingParams(max_tokens=1), SamplingParams(max_tokens=4)
            for prompt in prompts:
                engine.submit(prompt, one)
            engine.run()
            later = [prompts[number] for number in (1, 1, 1, 0)]
            ids = [engine.submit(prompt, params) for prompt in later]
            requests = dict(engine._scheduler.requests)
            results = engine.run()
            first = [requests[id_].sequences[0] for id_ in ids]
            places = [(each.rank, each.reused) for each in first]
            return places, [results[id_].tokens for id_ in ids]

    places, tokens = group.run(on_rank)[0]
    assert places == [(1, 24)] * 3 + [(0, 24)]
    alone = running(oracle, max_length=64)
    for number, each in zip((1, 1, 1, 0), tokens, strict=True):
        params = SamplingParams(max_tokens=4)
        assert each == run_alone(alone, prompts[number], params)[0].tokens
