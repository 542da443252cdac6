"""engine: its life: closing, a model that fails, threads, waiting requests, statistics."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.prefix_store import PrefixStore
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone, step_until_idle, together

V, LENGTH = 23, 40
SHORT = SamplingParams(max_tokens=3)


def engine_of(rows: int = 4, **options) -> Engine:
    return Engine(HistoryModel(V, LENGTH, **options), rows, prefill_chunk=5)


def alone(prompt, params):
    return answer_alone(lambda tokens: logits_after(tokens, V), prompt, params, max_length=LENGTH)


def test_a_closed_engine_says_so():
    with engine_of() as engine:
        engine.submit([1], SHORT)
        engine.step()
    assert not engine.has_work
    engine.close()
    for call in (engine.step, lambda: engine.submit([1])):
        with pytest.raises(RuntimeError, match=r"^the engine is closed: close\(\) was called$"):
            call()
    engine.cancel(0)
    assert engine.stats.finished == 0


@pytest.mark.parametrize("step", [0, 1, 4])
def test_a_model_that_fails_ends_all_with_its_error_and_closes(step):
    engine = engine_of(2, fails_at=step)
    params = SamplingParams(max_tokens=9, n=2, temperature=1.0, seed=1)
    ids = [engine.submit([token] * 3, params) for token in range(2)]
    answer_of = together(step_until_idle(engine))
    assert set(answer_of) == {(id_, index) for id_ in ids for index in range(2)}
    for answer in answer_of.values():
        assert (answer.finish_reason, answer.error) == ("error", ArithmeticError)
    with pytest.raises(RuntimeError, match="the engine is closed: the device is gone") as info:
        engine.submit([1])
    assert isinstance(info.value.__cause__, ArithmeticError)


def test_a_prefix_that_cannot_be_restored_ends_all_with_its_error_and_closes(monkeypatch):
    def fail(*_):
        raise ArithmeticError("the device is gone")

    engine = Engine(HistoryModel(V, LENGTH), 4, prefill_chunk=5, prefix_cache=1 << 20)
    engine.submit([1, 2, 3], SamplingParams(max_tokens=9))
    engine.step()
    monkeypatch.setattr(PrefixStore, "restore", fail)
    engine.submit([4, 5], SHORT)
    answer_of = together(step_until_idle(engine))
    assert {answer.error for answer in answer_of.values()} == {ArithmeticError}
    assert [id_ for id_, _ in answer_of] == [0, 1]
    assert (str(engine.failure), engine.has_work) == ("the device is gone", False)
    assert (engine.stats.finished, engine.stats.prefill_tokens) == (2, 3)  # the one step's


def test_results_of_a_model_that_fails_name_the_error():
    engine = engine_of(fails_at=2)
    params = SamplingParams(max_tokens=9)
    id_ = engine.submit([1, 2], params)
    result = engine.run()[id_]
    assert result.tokens == alone([1, 2], params).tokens[:2]
    assert str(result.answers[0].error) == "the device is gone"


def test_a_full_queue_refuses():
    engine = Engine(HistoryModel(V, LENGTH), 1, max_waiting=2)
    ids = [engine.submit([1], SHORT), engine.submit([2], SHORT)]
    with pytest.raises(RuntimeError, match="2 requests wait already: max_waiting"):
        engine.submit([3], SHORT)
    engine.step()  # the first one runs
    ids.append(engine.submit([3], SHORT))
    with pytest.raises(RuntimeError, match="max_waiting"):
        engine.submit([4], SHORT)
    results = engine.run()
    assert [results[id_].tokens for id_ in ids] == [alone([t], SHORT).tokens for t in (1, 2, 3)]


def test_results_are_of_all_that_were_not_ended_yet():
    engine = engine_of()
    first = engine.submit([1], SamplingParams(max_tokens=1))
    engine.step()
    second = engine.submit([2], SHORT)
    assert engine.run().keys() == {second}
    assert first != second
    assert engine.run() == {}


def test_a_step_without_work_does_nothing():
    engine = engine_of()
    assert engine.step() == []
    assert not engine.has_work


class PausingModel(HistoryModel):
    """A model whose steps wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__(V, LENGTH)
        self.began, self.may_end = threading.Event(), threading.Event()

    def step(self, *args, **kwargs):
        """Wait, and run the step."""
        self.began.set()
        assert self.may_end.wait(20)
        return super().step(*args, **kwargs)


def during_a_step(act):
    """Return the engine, and the events of a step during which `act(engine)` runs."""
    model = PausingModel()
    engine = Engine(model, 2)
    engine.submit([1], SHORT)
    with ThreadPoolExecutor(1) as pool:
        stepping = pool.submit(engine.step)
        assert model.began.wait(20)
        act(engine)
        model.may_end.set()
        return engine, stepping.result(20)


def test_nothing_waits_for_a_step():
    acts = []

    def act(engine):
        acts.append(engine.submit([2], SHORT))
        engine.cancel(0)
        acts.append(engine.stats.waiting)

    engine, events = during_a_step(act)
    assert acts == [1, 1]
    assert [event.tokens for event in events] == [tuple(alone([1], SHORT).tokens[:1])]
    answer_of = together(events + step_until_idle(engine))
    assert answer_of[0, 0].finish_reason == "cancelled"
    assert answer_of[1, 0] == alone([2], SHORT)


def test_an_engine_that_is_closed_during_a_step_ends_it():
    engine, _ = during_a_step(Engine.close)
    assert not engine.has_work
    with pytest.raises(RuntimeError, match="closed"):
        engine.step()


class Client:
    """A thread that submits requests, and cancels some of them.

    Attributes
    ----------
    prompts
        The prompts by request.
    cancelled
        The requests that it cancelled.
    """

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine, self._random = engine, np.random.default_rng(seed)
        self.prompts: dict[int, list[int]] = {}
        self.cancelled: set[int] = set()

    def __call__(self, count: int, params: SamplingParams) -> None:
        """Submit `count` requests."""
        for _ in range(count):
            prompt = self._random.integers(0, V, self._random.integers(1, 9)).tolist()
            id_ = self._engine.submit(prompt, params)
            self.prompts[id_] = prompt
            if self._random.random() < 0.3:
                self.cancelled.add(id_)
                self._engine.cancel(id_)
            assert self._engine.stats.running <= 3


def test_threads_submit_and_cancel_while_one_steps():
    engine, done = engine_of(3), threading.Event()
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=4)
    clients = [Client(engine, seed) for seed in range(4)]

    def step() -> list:
        events = []
        while engine.has_work or not done.is_set():
            events += engine.step()
        return events

    with ThreadPoolExecutor(5) as pool:
        stepping = pool.submit(step)
        try:
            for future in [pool.submit(client, 12, params) for client in clients]:
                future.result(60)
        finally:
            done.set()
        answer_of = together(stepping.result(60))
    prompts = {id_: prompt for client in clients for id_, prompt in client.prompts.items()}
    cancelled = set().union(*(client.cancelled for client in clients))
    assert sorted(id_ for id_, _ in answer_of) == sorted(prompts) == list(range(48))
    for (id_, _), answer in answer_of.items():
        expected = alone(prompts[id_], params)
        if answer.finish_reason == "cancelled":
            assert id_ in cancelled
            expected = expected._replace(finish_reason="cancelled")
            expected = expected._replace(tokens=expected.tokens[: len(answer.tokens)])
        assert answer == expected
    assert engine.stats[:3] == (0, 0, 48)


def test_statistics_count_what_was_computed():
    now = iter(np.arange(0, 1000, 0.5))
    engine = Engine(HistoryModel(V, LENGTH), 2, prefill_chunk=4, clock=lambda: float(next(now)))
    for length in (3, 5, 6):
        engine.submit([1] * length, SHORT)
    assert (engine.stats.waiting, engine.stats.running) == (3, 0)
    engine.step()
    assert (engine.stats.waiting, engine.stats.running) == (1, 2)
    engine.run()
    stats = engine.stats
    assert (stats.waiting, stats.running, stats.finished) == (0, 0, 3)
    assert (stats.prefill_tokens, stats.decode_tokens) == (14, 6)
    assert stats.tokens_per_step == 1.0
    assert 0 < stats.token_seconds.p50 <= stats.token_seconds.p90 <= stats.token_seconds.p99
    assert stats.first_token_seconds.p50 > 0
    assert 1 <= stats.batch_size <= 2
    assert stats.cache_bytes > 0
