"""Streams of events: several prompts of one request, which end together."""

import asyncio
import time

import pytest

from mimo_v2_flash.engine import Engine, QueueFullError, SamplingParams
from mimo_v2_flash.serving.engine_thread import EngineThread
from mimo_v2_flash.serving.event_stream import (
    AsyncEventStream,
    EventStream,
    LoopInbox,
    Submission,
)
from tests.support.engine_model import HistoryModel

LONG = SamplingParams(max_tokens=900)


@pytest.fixture
def thread():
    with EngineThread(Engine(HistoryModel(max_length=1000), 2, max_waiting=3)) as thread:
        yield thread


def submissions(*counts, limit=4):
    return [Submission([1 + n], SamplingParams(max_tokens=limit, n=n)) for n in counts]


def counts_of(steps):
    """Return how many tokens each answer got."""
    counts = {}
    for number, event in [pair for events in steps for pair in events]:
        key = number, event.index
        counts[key] = counts.get(key, 0) + len(event.tokens)
    return counts


def inbox():
    return LoopInbox(asyncio.get_running_loop())


EXPECTED = {(0, 0): 4, (1, 0): 4, (1, 1): 4, (2, 0): 4}


def test_all_answers_to_all_prompts_come(thread):
    stream = EventStream(thread, submissions(1, 2, 1))
    assert counts_of(stream) == EXPECTED


def test_so_they_do_in_a_coroutine(thread):
    async def collected():
        stream = AsyncEventStream(thread, submissions(1, 2, 1), inbox())
        return [events async for events in stream.steps()]

    assert counts_of(asyncio.run(collected())) == EXPECTED


def wait_until_idle(thread):
    for _ in range(1000):
        if not (thread.stats.running or thread.stats.waiting):
            return
        time.sleep(0.01)
    raise AssertionError(thread.stats)


def test_a_stream_that_is_closed_frees_its_rows(thread):
    stream = EventStream(thread, [Submission([1], LONG), Submission([2], LONG)])
    next(iter(stream))
    stream.close()
    wait_until_idle(thread)
    assert thread.stats.decode_tokens < 2 * 899  # of answers that nobody has ended


def test_a_prompt_that_is_refused_takes_the_others_along(thread):
    with pytest.raises(ValueError, match="vocabulary"):
        EventStream(thread, [Submission([1], LONG), Submission([99], LONG)])
    wait_until_idle(thread)


def test_a_full_queue_takes_none_of_a_request(thread):
    running = EventStream(thread, [Submission([1], LONG), Submission([2], LONG)])
    for events in running:
        if {number for number, _ in events} == {0, 1}:
            break
    with pytest.raises(QueueFullError, match="wait already"):
        EventStream(thread, [Submission([1], LONG)] * 4)
    running.close()
    wait_until_idle(thread)


def test_a_silent_stream_says_so(thread):
    async def first_steps():
        shared = inbox()
        blockers = AsyncEventStream(thread, [Submission([1], LONG), Submission([2], LONG)], shared)
        waiting = AsyncEventStream(thread, submissions(1), shared)
        steps = waiting.steps(idle_seconds=0.001)
        silent = await anext(steps)
        blockers.close()
        rest = [events async for events in steps]
        return silent, counts_of(rest)

    silent, counts = asyncio.run(first_steps())
    assert silent == []
    assert counts == {(0, 0): 4}


def test_a_loop_is_woken_once_for_all_that_has_come():
    class Loop:
        """A loop that runs nothing by itself."""

        def __init__(self):
            self.callbacks = []

        def call_soon_threadsafe(self, callback):
            self.callbacks.append(callback)

    loop, first, second = Loop(), [], []
    box = LoopInbox(loop)
    for number, listener in enumerate((first.extend, second.extend) * 2):
        box.put(listener, [number])
    assert len(loop.callbacks) == 1
    loop.callbacks.pop()()
    assert (first, second) == ([0, 2], [1, 3])
    box.put(first.extend, [4])
    loop.callbacks.pop()()
    assert first == [0, 2, 4]


def test_a_loop_that_has_ended_takes_nothing():
    loop = asyncio.new_event_loop()
    loop.close()
    LoopInbox(loop).put([].extend, [])
