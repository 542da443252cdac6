"""executor: all calls up to a step are one broadcast; how it ends is told once."""

import pickle

import numpy as np
import pytest

from mimo_v2_flash.engine.executor import Executor
from mimo_v2_flash.engine.prefix_store import BLOCK, PrefixStore
from mimo_v2_flash.engine.worker import RowTokens, StepPlan, Worker
from tests.support.engine_model import HistoryModel

PROMPT = list(range(20)) * 2


class RecordingGroup:
    """The first of two ranks, which records what it sends.

    Attributes
    ----------
    sent
        The calls of every broadcast.
    aborted
        The errors with which the run was aborted.
    """

    size, rank = 2, 0

    def __init__(self) -> None:
        self.sent: list[list[tuple]] = []
        self.aborted: list[BaseException] = []

    def broadcast(self, message: bytes) -> bytes:
        """Record and return a message."""
        self.sent.append(pickle.loads(message))
        return message

    def abort(self, error: BaseException) -> None:
        """Record an error."""
        self.aborted.append(error)


def executor_of(*, store: bool = False, **options) -> tuple[Executor, RecordingGroup]:
    group, model = RecordingGroup(), HistoryModel(23, 80, **options)
    cache = model.new_cache(4, captures=store)
    prefixes = [PrefixStore(cache, 1 << 20)] if store else []
    return Executor(group, Worker(model, cache, prefixes)), group


def plan_of(row: int, start: int, tokens: list[int]) -> StepPlan:
    return StepPlan(0, 4, (RowTokens(row, start, tokens, 1),), greedy=True)


def test_what_comes_before_a_step_is_sent_with_it_in_its_order():
    executor, group = executor_of(store=True)
    first, second = plan_of(0, 0, PROMPT[:33]), plan_of(1, 33, [5])
    executor.step(first)
    executor.copy(0, 1)
    assert executor.restore(2, PROMPT) == BLOCK
    assert executor.restore(3, [4, 5]) == 0  # nothing is known, and nothing sent
    executor.share("news")
    executor.step(second)
    executor.close()
    assert group.sent == [
        [("step", first)],
        [
            ("save", ()),
            ("copy", 0, 1),
            ("restore", 2, PROMPT[: BLOCK + 1]),
            ("share", "news"),
            ("step", second),
        ],
        [("save", ()), ("close", None)],
    ]


@pytest.mark.parametrize("length", [BLOCK + 1, BLOCK + 5, BLOCK - 3])
def test_those_who_get_a_beginning_of_the_prompt_start_where_rank_0_does(length):
    executor, group = executor_of(store=True)
    executor.step(plan_of(0, 0, PROMPT[:33]))
    start = executor.restore(2, PROMPT[:length])
    executor.step(plan_of(2, start, PROMPT[start:length]))
    (_, _, tokens) = group.sent[1][1]
    assert executor._worker.restore(3, tokens) == start == min(BLOCK, length - 1)


def test_causes_are_looked_for_only_where_a_row_is_bad():
    executor, group = executor_of(nan_after=7)
    _, error = executor.step(plan_of(2, 0, [1]))
    assert error is None
    (token_Bn, logit_Bn), error = executor.step(plan_of(3, 0, [7]))
    assert error.rows == (3,)
    assert np.isnan(logit_Bn[3, 0])
    assert token_Bn.shape == (4, 1)
    assert [[name for name, *_ in calls] for calls in group.sent] == [
        ["step"],
        ["step"],
        ["explain"],
    ]


def test_an_error_between_steps_is_told_and_one_within_aborts():
    executor, group = executor_of()
    executor.close(KeyError(5))
    executor.close()
    assert group.sent == [[("close", "KeyError: 5")]]
    executor, group = executor_of(fails_at=0)
    with pytest.raises(ArithmeticError) as caught:
        executor.step(plan_of(0, 0, [1]))
    executor.close(caught.value)
    assert [name for ((name, *_),) in group.sent] == ["step"]
    assert group.aborted == [caught.value]


@pytest.mark.parametrize(("pads_steps", "aborts"), [(False, 0), (True, 1)])
def test_an_error_of_a_copy_aborts_where_programs_copy(pads_steps, aborts, monkeypatch):
    """Other ranks may wait in the program; without one they wait for what is sent."""
    executor, group = executor_of(pads_steps=pads_steps)
    monkeypatch.setattr(Worker, "copy", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError) as caught:
        executor.copy(0, 1)
    executor.close(caught.value)
    assert len(group.aborted) == aborts


def test_a_single_rank_sends_nothing():
    executor, group = executor_of(store=True)
    group.size = 1
    executor.step(plan_of(0, 0, PROMPT[:33]))
    executor.copy(0, 1)
    executor.close()
    assert group.sent == executor._calls == []
