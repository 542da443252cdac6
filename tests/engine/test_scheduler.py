"""scheduler: first come, first served; priorities, aging; decode first; budgets; rows."""

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.engine.scheduler import PROMPT_LOGITS, Scheduler

PLAIN = SamplingParams()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Simulation:
    """A scheduler whose steps are run by nobody: tokens are counted as computed.

    Attributes
    ----------
    trace
        Of every step, the tokens of each sequence: {(request, answer): (start, count, is_prefill)}.
    began
        Requests in the order in which they got rows.
    """

    def __init__(
        self, rank_rows=(slice(0, 4),), *, prefill_chunk: int = 8, max_step: int = 512, **options
    ) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(
            rank_rows,
            prefill_chunk=prefill_chunk,
            max_step=max_step,
            clock=self.clock,
            begin=self._begin,
            **options,
        )
        self.trace: list[dict] = []
        self.began: list[int] = []
        self.left: dict[int, int] = {}

    def add(
        self, id_: int, prompt: int, new: int = 2, *, n: int = 1, priority: int = 0, params=PLAIN
    ) -> Request:
        """Add a request of `prompt` tokens whose answers have `new`."""
        request = Request(
            id_,
            list(range(1000 * id_, 1000 * id_ + prompt)),
            params,
            frozenset(),
            new,
            0,
            priority,
            self.clock.now,
        )
        request.sequences = [Sequence(request, index) for index in range(n)]
        self.scheduler.add(request)
        return request

    def step(self, seconds: float = 1.0) -> dict:
        """Run a step as the engine does, and check what is true of any."""
        scheduled = self.scheduler.schedule()
        rows = [sequence.row for sequence in self.scheduler.running]
        assert len(set(rows)) == len(rows)
        assert None not in rows
        step = {}
        for part in scheduled:
            sequence, count = part.sequence, len(part.tokens)
            key = sequence.request.id, sequence.index
            assert key not in step
            assert count > 0
            step[key] = sequence.computed, count, sequence.is_prefill
            every = [*sequence.request.prompt_tokens, *sequence.new_tokens]
            assert part.tokens == every[sequence.computed : sequence.computed + count]
            self._compute(part)
        self.trace.append(step)
        self.clock.now += seconds
        return step

    def cancel(self, request: Request) -> None:
        """End a request as the engine does."""
        for sequence in request.sequences:
            sequence.finish_reason = sequence.finish_reason or "cancelled"
            self.scheduler.remove(sequence)

    def run(self, seconds: float = 1.0) -> None:
        """Run until nothing is left."""
        for _ in range(5000):
            if not self.scheduler.running and not self.scheduler.waiting:
                return
            assert self.step(seconds), "a step without tokens: starvation"
        raise AssertionError("not done")

    def _begin(self, sequence: Sequence) -> None:
        self.began.append(sequence.request.id)

    def _compute(self, part) -> None:
        sequence, is_last = part.sequence, part.is_last
        was_prefill = sequence.is_prefill
        sequence.computed += len(part.tokens)
        if not is_last:
            return
        for each in sequence.request.sequences if was_prefill else [sequence]:
            if each.row is None:
                continue
            each.computed = sequence.computed
            each.new_tokens.append(7)
            if len(each.new_tokens) == sequence.request.limit:
                each.finish_reason = "length"
                self.scheduler.remove(each)


def test_first_come_first_served():
    simulation = Simulation((slice(0, 1),))
    for id_, prompt in enumerate([9, 1, 5, 2]):
        simulation.add(id_, prompt)
    simulation.run()
    assert simulation.began == [0, 1, 2, 3]


def test_a_small_request_does_not_overtake_one_that_needs_more_rows():
    simulation = Simulation((slice(0, 3),))
    simulation.add(0, 1, 20)
    simulation.step()
    simulation.add(1, 1, n=3)
    simulation.add(2, 1)
    simulation.run(seconds=0.01)
    assert simulation.began == [0, 1, 2]


def test_higher_priorities_go_first():
    simulation = Simulation((slice(0, 1),))
    for id_, priority in enumerate([0, 2, 1, 2, -1]):
        simulation.add(id_, 3, priority=priority)
    simulation.run(seconds=0.01)
    assert simulation.began == [1, 3, 2, 0, 4]


def test_prompts_of_higher_priority_are_computed_first():
    simulation = Simulation()
    simulation.add(0, 30)
    simulation.step(0.01)
    simulation.add(1, 10, priority=1)
    assert [simulation.step(0.01) for _ in range(2)] == [
        {(1, 0): (0, 8, True)},
        {(1, 0): (8, 2, True), (0, 0): (8, 6, True)},
    ]


@pytest.mark.parametrize(("waited", "first"), [(9.9, 1), (10.0, 0)])
def test_ten_seconds_of_waiting_are_one_priority(waited, first):
    simulation = Simulation((slice(0, 1),))
    simulation.add(0, 1)
    simulation.clock.now += waited
    simulation.add(1, 1, priority=1)
    simulation.run(seconds=0.0)
    assert simulation.began[0] == first


def test_a_stream_of_important_requests_starves_nobody():
    """Three priorities are made up for in 30 seconds: none that comes later is served before."""
    simulation = Simulation((slice(0, 1),))
    humble = simulation.add(0, 4)
    important = [simulation.add(1, 4, priority=3)]
    while humble.sequences[0].row is None:
        important.append(simulation.add(len(important) + 1, 4, priority=3))
        simulation.step()
        assert len(important) < 200
    before = [request for request in important if request.id in simulation.began]
    assert len(before) > 5
    assert max(request.arrival for request in before) <= 30


def test_a_long_prompt_of_low_priority_is_computed_in_the_end():
    simulation = Simulation((slice(0, 4),), prefill_chunk=4)
    humble = simulation.add(0, 40)
    for number in range(1, 400):
        simulation.add(number, 4, priority=2)
        simulation.step()
        if humble.sequences[0].new_tokens:
            break
    assert simulation.clock.now <= 60
    simulation.run()


def test_all_that_generate_come_before_a_chunk():
    simulation = Simulation(prefill_chunk=3)
    simulation.add(0, 2, 30)
    simulation.add(1, 1, 30)
    simulation.step()
    simulation.add(2, 100)
    for chunk in range(5):
        step = simulation.step()
        assert list(step)[:2] == [(0, 0), (1, 0)]
        assert step[2, 0] == (3 * chunk, 3, True)


def test_prompts_share_a_budget():
    simulation = Simulation(prefill_chunk=8)
    for id_, prompt in enumerate([3, 4, 9]):
        simulation.add(id_, prompt, 9)
    first, second, third = (simulation.step() for _ in range(3))
    assert first == {(0, 0): (0, 3, True), (1, 0): (0, 4, True), (2, 0): (0, 1, True)}
    assert second == {(0, 0): (3, 1, False), (1, 0): (4, 1, False), (2, 0): (1, 8, True)}
    assert third == {(0, 0): (4, 1, False), (1, 0): (5, 1, False), (2, 0): (9, 1, False)}


def test_a_step_has_max_step_tokens_but_always_one_of_a_prompt():
    simulation = Simulation((slice(0, 8),), prefill_chunk=100, max_step=5)
    for id_ in range(6):
        simulation.add(id_, 4, 40)
    simulation.step()
    assert simulation.trace[0] == {(0, 0): (0, 4, True), (1, 0): (0, 1, True)}
    for _ in range(20):
        simulation.step()
    counts = [sum(count for _, count, _ in step.values()) for step in simulation.trace]
    assert max(counts) == 6  # five that generate, and one token of the last prompt
    assert counts[-1] == 6


def test_logits_of_a_prompt_are_wanted_for_a_few_tokens_at_a_time():
    simulation = Simulation(prefill_chunk=1000)
    simulation.add(0, 100, params=SamplingParams(prompt_logprobs=0))
    assert simulation.step() == {(0, 0): (0, PROMPT_LOGITS, True)}
    assert simulation.step() == {(0, 0): (PROMPT_LOGITS, 100 - PROMPT_LOGITS, True)}


def test_rows_are_the_lowest_that_are_free():
    simulation = Simulation((slice(0, 4),))
    requests = [simulation.add(id_, 1, 99) for id_ in range(4)]
    simulation.step()
    assert [request.sequences[0].row for request in requests] == [0, 1, 2, 3]
    for request in (requests[2], requests[0]):
        simulation.cancel(request)
    later = [simulation.add(id_, 1, 99) for id_ in (4, 5)]
    simulation.step()
    assert [request.sequences[0].row for request in later] == [0, 2]


RANKS = (slice(0, 3), slice(3, 6), slice(6, 8))


def test_rows_of_ranks_stay_even_and_answers_are_on_one_rank():
    simulation = Simulation(RANKS)
    assert simulation.scheduler.rows_per_request == 3
    requests = [simulation.add(0, 1, 99, n=2), *(simulation.add(id_, 1, 99) for id_ in range(1, 6))]
    simulation.step()
    rows = [[sequence.row for sequence in request.sequences] for request in requests]
    assert rows == [[0, 1], [3], [4], [6], [2], [5]]


def test_a_request_that_never_ran_stops_waiting():
    simulation = Simulation((slice(0, 1),))
    simulation.add(0, 1, 5)
    waiting = simulation.add(1, 1, n=1)
    simulation.step()
    simulation.cancel(waiting)
    simulation.cancel(waiting)
    simulation.run()
    assert simulation.began == [0]


class Arrival(NamedTuple):
    """A request of a drawn schedule."""

    step: int
    prompt: int
    new: int
    n: int
    priority: int
    patience: int | None


arrivals = st.builds(
    Arrival,
    st.integers(0, 12),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(0, 3),
    st.sampled_from([None, None, None, 0, 2, 9]),
)
rank_rows = st.sampled_from([(slice(0, 2),), (slice(0, 5),), RANKS, (slice(0, 2), slice(2, 2))])


@settings(max_examples=100)
@given(
    st.lists(arrivals, min_size=1, max_size=12),
    rank_rows,
    st.integers(1, 20),
    st.integers(1, 30),
    st.sampled_from([0.1, 3.0]),
)
def test_any_schedule_is_served_within_its_budgets(schedule, rows, chunk, max_step, seconds):
    simulation = Simulation(rows, prefill_chunk=chunk, max_step=max_step)
    requests = arrive(simulation, schedule, seconds)
    simulation.run(seconds)
    computed: Counter = Counter()
    for step in simulation.trace:
        check_step(step, computed, chunk, max_step)
    for id_, request in requests.items():
        if all(sequence.finish_reason == "length" for sequence in request.sequences):
            assert computed[id_, 0] == schedule[id_].prompt + schedule[id_].new - 1
    whole = [simulation.add(100 + rank, 1) for rank in range(sum(r.stop - r.start for r in rows))]
    simulation.step()  # no row is lost
    assert sorted(request.sequences[0].row for request in whole) == list(range(len(whole)))


def arrive(simulation: Simulation, schedule, seconds: float) -> dict[int, Request]:
    """Return the requests by their ids, which have come, and some of which have been cancelled."""
    requests: dict[int, Request] = {}
    for step in range(13):
        for id_, each in enumerate(schedule):
            if each.step == step:
                options = {"n": each.n, "priority": each.priority}
                requests[id_] = simulation.add(id_, each.prompt, each.new, **options)
            if each.patience is not None and step == each.step + each.patience:
                simulation.cancel(requests[id_])
        simulation.step(seconds)
    return requests


def check_step(step: dict, computed: Counter, chunk: int, max_step: int) -> None:
    """Assert that a step computes every token once, those that generate first, in its budgets."""
    order = [is_prefill for _, _, is_prefill in step.values()]
    assert order == sorted(order)
    decoding = order.count(False)
    prompts = [count for _, count, is_prefill in step.values() if is_prefill]
    assert sum(prompts) <= max(1, min(chunk, max_step - decoding))
    for (id_, index), (start, count, _) in step.items():
        if index == 0:
            assert start == computed[id_, index]
        computed[id_, index] += count
