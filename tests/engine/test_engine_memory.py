"""engine: requests within a budget of memory, and what they and the machine see of it."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.kv_bytes import KVBytes
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone, step_until_idle, together
from tests.support.engine_tiny import RECIPE, assert_same_answer, run_alone
from tests.support.spread import admitting
from tests.support.tiny import running, tiny

V, LENGTH, LONG = 23, 40, 3000
TOKEN, RING = 8, 8 * 8  # bytes of the model's layers: a key and a value, eight slots


def sizes_of(rows: int, length: int = LENGTH, **options) -> KVBytes:
    """Return the bytes of the cache of an engine."""
    with Engine(HistoryModel(V, length), rows, prefix_cache=0, **options) as engine:
        return engine._worker.cache.kv_bytes


def engine_of(rows: int, room: int, *, length: int = LENGTH, prefix_cache=0, **options) -> Engine:
    """Return an engine with `room` bytes for rows and prefixes."""
    model = HistoryModel(V, length, **options)
    fixed = sizes_of(rows, length).fixed
    if prefix_cache:
        fixed += model.max_step * 12  # captured tokens and their positions
    return Engine(model, rows, prefill_chunk=5, memory=fixed + room, prefix_cache=prefix_cache)


def alone(prompt, params, length: int = LENGTH, **options):
    return answer_alone(
        lambda tokens: logits_after(tokens, V), prompt, params, max_length=length, **options
    )


def test_the_bytes_of_the_model_are_those():
    assert sizes_of(3)[1:] == (RING, TOKEN)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("prompt", "new"), [([1] * 7, 9), ([1] * 7, 1), ([1], None)])
def test_what_can_never_fit_is_refused_before_anything_changes(n, prompt, new):
    """The last token is not fed back."""
    params = SamplingParams(max_tokens=new, n=n, temperature=1.0, seed=1)
    needed = n * (RING + TOKEN * (LENGTH if new is None else len(prompt) + new - 1))
    engine = engine_of(2, needed - 1)
    before = engine.stats
    with pytest.raises(ValueError, match=r"the request may need .*: lower max_tokens or n"):
        engine.submit(prompt, params)
    assert not engine.has_work
    np.testing.assert_equal(engine.stats, before)
    engine = engine_of(2, needed)
    assert engine.submit(prompt, params) == 0
    answer_of = together(step_until_idle(engine))
    assert answer_of == {(0, index): alone(prompt, params, index=index) for index in range(n)}


def test_what_does_not_fit_now_waits_and_max_waiting_refuses():
    params = SamplingParams(max_tokens=9)
    engine = engine_of(4, 3 * (RING + TOKEN * 10) - 1)
    engine._max_waiting = 1
    for token in range(2):
        engine.submit([token, 5], params)
        engine.step()
    third = engine.submit([2, 5], params)
    engine.step()
    assert (engine.stats.running, engine.stats.waiting) == (2, 1)
    with pytest.raises(RuntimeError, match="1 requests wait already: max_waiting"):
        engine.submit([3, 5], params)
    assert engine.run()[third].tokens == alone([2, 5], params).tokens


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_memory_of_a_cancelled_request_is_free_at_once(steps):
    params = SamplingParams(max_tokens=9)
    engine = engine_of(4, RING + TOKEN * 16)
    first = engine.submit([1] * 8, params)
    for _ in range(steps):
        engine.step()
    second = engine.submit([2] * 8, params)
    engine.cancel(first)
    engine.step()
    assert engine._scheduler.requests[second].sequences[0].row is not None


def test_prefixes_are_dropped_before_a_request_waits():
    """Prefixes may have all that rows leave."""
    engine, params = engine_of(2, 3000, length=240, prefix_cache=1 << 20), SamplingParams(1)
    (store,) = engine._worker.prefixes
    for seed in range(3):
        engine.submit(np.random.default_rng(seed).integers(0, V, 100).tolist(), params)
        engine.run()
        assert engine.stats.memory_bytes <= engine.stats.max_memory_bytes
    assert store.nbytes > 1000
    engine.submit([5], SamplingParams(max_tokens=240))
    engine.step()
    assert store.nbytes == engine.stats.prefix_bytes < 1000
    assert engine.stats.running == 1


def memory_of(engine):
    """Return the bytes of rows and prefixes, of all, the most of all so far, and the limit."""
    fields = ("row_bytes", "prefix_bytes", "memory_bytes", "peak_memory_bytes", "max_memory_bytes")
    return tuple(getattr(engine.stats, field) for field in fields)


def test_statistics_count_rows_prefixes_and_what_every_cache_has():
    engine = engine_of(2, 10_000, length=240, prefix_cache=5000)
    fixed = engine.stats.memory_bytes
    assert memory_of(engine) == (0, 0, fixed, fixed, fixed + 10_000)
    engine.submit([1] * 70, SamplingParams(max_tokens=3))
    engine.run()
    engine.step()
    row, prefixes = RING + TOKEN * 72, 2 * 32 * TOKEN  # of chunks this short, rings keep none
    total = fixed + row + prefixes
    assert memory_of(engine) == (row, prefixes, total, total, fixed + 10_000)
    engine.submit([2], SamplingParams(max_tokens=1))
    engine.run()
    assert engine.stats.row_bytes == row  # by the most that it ever held


def test_the_default_is_a_part_of_what_is_free(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    engine = Engine(HistoryModel(V, LENGTH), 2)
    assert engine.stats.max_memory_bytes == 900_000


@pytest.mark.parametrize("pads_steps", [False, True])
def test_memory_that_does_not_hold_an_empty_cache_is_refused(pads_steps):
    """Arrays of a device are whole from the start, and only there is no limit by default."""
    model = HistoryModel(V, LENGTH, pads_steps=pads_steps)
    cache = model.new_cache(3)
    least = cache.nbytes if pads_steps else cache.kv_bytes.fixed
    with Engine(model, 3, memory=least, prefix_cache=0) as engine:
        assert engine.stats.memory_bytes == least
    with pytest.raises(ValueError, match=r"an empty KV cache has .*: lower max_sequences or max_l"):
        Engine(model, 3, memory=least - 1, prefix_cache=0)
    assert (Engine(model, 3).stats.max_memory_bytes is None) == pads_steps


class Arrival(NamedTuple):
    """A request of a schedule: when it comes, and after how many steps it is cancelled."""

    prompt: list[int]
    params: SamplingParams
    step: int
    patience: int | None


params = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([1, 2, 9]),
    temperature=st.sampled_from([0.0, 1.0]),
    n=st.sampled_from([1, 1, 2]),
    seed=st.integers(0, 3),
)
stems = st.builds(
    lambda seed, length: np.random.default_rng(seed).integers(0, V, length).tolist(),
    st.integers(0, 2),
    st.sampled_from([1, 3, 20, 40, 90]),
)
patience = st.sampled_from([None, None, None, 0, 2, 5])
schedules = st.lists(
    st.builds(Arrival, stems, params, st.integers(0, 10), patience), min_size=2, max_size=8
)


def run(engine: Engine, schedule: list[Arrival]) -> dict:
    """Return the answers of a schedule; rows that are free are poisoned before each step."""
    ids, events = {}, []
    for step in range(1000):
        for number, each in enumerate(schedule):
            if each.step == step:
                ids[number] = engine.submit(each.prompt, each.params)
            if each.patience is not None and each.step + each.patience == step:
                engine.cancel(ids[number])
        if step > 10 and not engine.has_work:
            break
        engine._model.poison(row for rank in engine._scheduler._free for row in rank)
        events += engine.step()
        assert engine.stats.memory_bytes <= engine.stats.max_memory_bytes
        assert engine.stats.peak_memory_bytes <= engine.stats.max_memory_bytes
    assert not engine.has_work
    return {(list(ids).index(id_), index): a for (id_, index), a in together(events).items()}


@settings(max_examples=40)
@given(schedules, st.integers(2, 4), st.integers(0, 2000), st.sampled_from([0, 600, 1 << 20]))
def test_each_request_is_answered_as_alone_in_any_memory(schedule, rows, room, prefix_cache):
    """The largest request fits; rows that were given back are used again."""
    largest = max(
        each.params.n * (RING + TOKEN * (len(each.prompt) + each.params.max_tokens))
        for each in schedule
    )
    engine = engine_of(rows, largest + room, length=LONG, prefix_cache=prefix_cache)
    schedule.sort(key=lambda each: each.step)
    for (number, index), answer in run(engine, schedule).items():
        each = schedule[number]
        expected = alone(each.prompt, each.params, LONG, index=index)
        if answer.finish_reason == "cancelled":
            tokens = expected.tokens[: len(answer.tokens)]
            expected = expected._replace(tokens=tokens, finish_reason="cancelled")
        assert answer == expected


def test_long_rows_are_given_back_and_used_again_by_others(monkeypatch):
    """Rows of three pages, of which poison would be seen."""
    engine, calls = engine_of(2, 2 * RING + TOKEN * 2000, length=LONG), []
    give_back = engine._executor.give_back
    monkeypatch.setattr(
        engine._executor, "give_back", lambda *row: calls.append(row) or give_back(*row)
    )
    for length in (1700, 1690, 1680):
        prompt = np.random.default_rng(length).integers(0, V, length).tolist()
        requests = [(prompt, SamplingParams(max_tokens=1)), ([4], SamplingParams(max_tokens=300))]
        if length == 1690:
            requests.reverse()  # now row 1 has the long prompt
        engine._model.poison([0, 1])
        ids = [engine.submit(*request) for request in requests]
        results = engine.run()
        for id_, request in zip(ids, requests, strict=True):
            assert results[id_].tokens == alone(*request, LONG).tokens
        assert engine.stats.memory_bytes <= engine.stats.max_memory_bytes
    assert calls == [(0, 300, 1700), (1, 0, 1690)]


def test_ranks_wait_alike_and_answer_as_one():
    """Each of two ranks has memory for one of three requests, whichever has more of it."""
    plan, group = ParallelConfig(2, 1, 2), ThreadGroup(2)
    oracle, params = tiny(admitting(RECIPE, plan)), SamplingParams(max_tokens=6, seed=0)
    prompts = [[1, 2, 3], [4, 5], [6], [7, 8, 9]]
    fixed, sequence, token = running(oracle, max_length=64).new_cache(2).kv_bytes
    counts = []

    def on_rank(rank: int):
        model = running(oracle, group=group, plan=plan, max_length=64)
        memory = fixed + sequence + token * (12 + 3 * rank)  # the least counts
        options = {"memory": memory, "prefix_cache": 0, "clock": lambda: 0.0}
        with Engine(model, 4, **options) as engine:
            if rank:
                engine.follow()
                return []
            ids = [engine.submit(prompt, params) for prompt in prompts]
            requests = dict(engine._scheduler.requests)
            while engine.has_work:
                engine.step()
                counts.append(engine.stats.running)
                assert engine.stats.memory_bytes <= fixed + sequence + token * 12
            return [requests[id_].output() for id_ in ids]

    results, _ = group.run(on_rank)
    assert max(counts) == 2
    model = running(oracle, max_length=64)
    for result, prompt in zip(results, prompts, strict=True):
        (expected,) = run_alone(model, prompt, params)
        assert_same_answer(result.answers[0], expected, prompt, params, model=oracle)
