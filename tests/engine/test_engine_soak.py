"""engine: two thousand requests of a heavy-tailed mix: nothing is lost, nothing is left."""

import gc
import threading
from collections import Counter
from typing import Any

import numpy as np

from mimo_v2_flash.engine import Engine, SamplingParams
from tests.support.engine_oracle import together
from tests.support.engine_tiny import assert_same_answer, run_alone
from tests.support.tiny import FULL, SLIDING, Recipe, running, tiny

RECIPE = Recipe(
    layers=((FULL, "dense"), (SLIDING, "sparse")), vocabulary=40, hidden=16, experts=4, seed=5
)
PARTS = "mimo_v2_flash.engine", "mimo_v2_flash.kv_cache"
COUNT, LENGTH, ROWS, BUDGET = 2000, 96, 32, 1 << 17


def heavy_tailed(random: np.random.Generator, median: float, most: int) -> int:
    return int(min(most, 1 + random.pareto(1.3) * median))


class Traffic:
    """Requests that come and go at random, a fifth of them cancelled.

    Attributes
    ----------
    sent
        (prompt, params) of each request.
    cancelled
        Requests that were cancelled, ended or not.
    events
        All events.
    """

    def __init__(self, engine: Engine, seed: int) -> None:
        self._engine, self._random = engine, np.random.default_rng(seed)
        self._stems = [self._random.integers(0, RECIPE.vocabulary, 40).tolist() for _ in range(3)]
        self.sent: dict[int, tuple[list[int], SamplingParams]] = {}
        self.cancelled: set[int] = set()
        self.events: list[Any] = []

    def run(self, count: int) -> None:
        """Send `count` requests while the engine steps, and step until it is idle."""
        for _ in range(count):
            self._send()
            while len(self._engine._scheduler.requests) > 2 * ROWS:
                self._step()
        while self._engine.has_work:
            self._step()

    def _step(self) -> None:
        if self._random.random() < 0.05:
            running = list(self._engine._scheduler.requests)
            self._cancel(int(self._random.choice(running)))
        self.events += self._engine.step()

    def _send(self) -> None:
        random = self._random
        prompt = list(self._stems[random.integers(3)][: random.integers(0, 40)])
        prompt += random.integers(0, RECIPE.vocabulary, heavy_tailed(random, 2, 40)).tolist()
        params = SamplingParams(
            max_tokens=heavy_tailed(random, 2, 60),
            temperature=float(random.choice([0, 0.7, 1.2])),
            top_k=int(random.choice([0, 10])),
            frequency_penalty=float(random.choice([0, 0, 0.5])),
            stop_token_ids=[3],
            seed=int(random.integers(9)),
        )
        id_ = self._engine.submit(prompt, params, priority=int(random.integers(3)))
        self.sent[id_] = prompt, params
        if random.random() < 0.18:
            self._cancel(int(random.choice(list(self._engine._scheduler.requests))))

    def _cancel(self, id_: int) -> None:
        self.cancelled.add(id_)
        self._engine.cancel(id_)


def sizes() -> Counter[str]:
    """Return how many objects of the engine's modules live."""
    gc.collect()
    types = (type(each) for each in gc.get_objects())
    return Counter(kind.__name__ for kind in types if f"{kind.__module__}".startswith(PARTS))


def test_two_thousand_requests_leave_nothing():
    threads, before = threading.active_count(), sizes()
    model = running(tiny(RECIPE), max_length=LENGTH)
    with Engine(model, ROWS, prefill_chunk=64, prefix_cache=BUDGET) as engine:
        traffic = Traffic(engine, 0)
        traffic.run(COUNT // 4)
        half, sent = sizes(), len(traffic.sent)
        traffic.events = [*traffic.events]
        traffic.run(COUNT - sent)
        stats = engine.stats
        answer_of = together(traffic.events)
        events, traffic.events = len(traffic.events), []
        end = sizes()
        (store,) = engine._worker.prefixes
        blocks = BUDGET // store._full_bytes
    assert sorted(id_ for id_, _ in answer_of) == sorted(traffic.sent) == list(range(COUNT))
    reasons = Counter(answer.finish_reason for answer in answer_of.values())
    assert set(reasons) == {"stop", "length", "cancelled"}
    assert 0.15 * COUNT < reasons["cancelled"] <= len(traffic.cancelled)
    ended_early = {id_ for (id_, _), each in answer_of.items() if each.finish_reason == "cancelled"}
    assert ended_early <= traffic.cancelled
    assert stats[:3] == (0, 0, COUNT)
    assert events > COUNT
    for kind in ("Request", "Sequence", "TokenLogprob", "Event"):
        assert end[kind] == before[kind]
    assert end["_Block"] - before["_Block"] <= blocks + 1
    assert store.nbytes <= BUDGET
    assert sum(end.values()) <= sum(half.values()) + blocks
    assert threading.active_count() <= threads
    check_some(answer_of, traffic, model)


def check_some(answer_of, traffic: Traffic, model) -> None:
    """Assert that every fortieth answer is the one that its request has alone."""
    for id_ in range(0, COUNT, 40):
        prompt, params = traffic.sent[id_]
        actual, (expected,) = answer_of[id_, 0], run_alone(model, prompt, params)
        if actual.finish_reason == "cancelled":
            count = len(actual.tokens)
            actual = actual._replace(finish_reason=expected.finish_reason)
            actual = actual._replace(tokens=[*actual.tokens, *expected.tokens[count:]])
        assert_same_answer(actual, expected, prompt, params, model=tiny(RECIPE))
