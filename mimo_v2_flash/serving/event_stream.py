"""The engine's events for one API request: from Python as they come, or in a coroutine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple

from mimo_v2_flash.engine import SamplingParams
from mimo_v2_flash.engine.request import Constraint, Event

from .engine_thread import EngineThread

__all__ = ["AsyncEventStream", "EventStream", "LoopInbox", "Submission"]

MOST_UNREAD = 4096  # steps that a client has not read: a slow one is cut off


class Submission(NamedTuple):
    """A prompt for the engine, and how it is answered."""

    prompt_tokens: list[int]
    params: SamplingParams
    constraint: Constraint | None = None
    priority: int = 0


StepEvents = list[tuple[int, Event]]
"""What a step added: the number of a submission, and its event."""


class _Requests:
    """Engine requests of one API request, which end together."""

    def __init__(
        self, thread: EngineThread, submissions: Sequence[Submission], put: Callable[[Any], None]
    ) -> None:
        self._thread, self._ids = thread, list[int]()
        self.remaining = sum(submission.params.n for submission in submissions)
        try:
            for number, (prompt_tokens, params, constraint, priority) in enumerate(submissions):
                options = {"constraint": constraint, "priority": priority}
                listener = _numbered(number, put)
                self._ids.append(thread.submit(prompt_tokens, params, listener, **options))
        except BaseException:
            self.close()
            raise

    def count(self, events: StepEvents) -> StepEvents:
        """Return events, of which the last ones of answers are counted."""
        self.remaining -= sum(event.finish_reason is not None for _, event in events)
        return events

    def close(self) -> None:
        """Cancel what goes on."""
        for id_ in self._ids if self.remaining else ():
            self._thread.cancel(id_)


def _numbered(number: int, put: Callable[[StepEvents], None]) -> Callable[[list[Event]], None]:
    return lambda events: put([(number, event) for event in events])


class EventStream(_Requests):
    """The events of an API request, step by step; `close` cancels it."""

    def __init__(self, thread: EngineThread, submissions: Sequence[Submission]) -> None:
        self._queue = SimpleQueue[StepEvents]()
        super().__init__(thread, submissions, self._queue.put)

    def __iter__(self) -> Iterator[StepEvents]:
        """Yield the events of each step until all answers have ended."""
        while self.remaining:
            yield self.count(self._queue.get())


class LoopInbox:
    """Events on their way from the engine's thread to queues of an event loop.

    The loop is woken once for all that has come by then, not for each request of a step.

    Parameters
    ----------
    loop
        The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._is_woken = loop, False
        self._pending = deque[tuple[asyncio.Queue[StepEvents], StepEvents]]()

    def put(self, queue: asyncio.Queue[StepEvents], events: StepEvents) -> None:
        """Hand events over; to be called on the engine's thread."""
        self._pending.append((queue, events))
        if not self._is_woken:  # else `_deliver` is still to come, and finds them
            self._is_woken = True
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False
        while self._pending:
            queue, events = self._pending.popleft()
            queue.put_nowait(events)


class AsyncEventStream(_Requests):
    """The same for a coroutine of the loop that an inbox belongs to."""

    def __init__(
        self, thread: EngineThread, submissions: Sequence[Submission], inbox: LoopInbox
    ) -> None:
        self._inbox, self._queue = inbox, asyncio.Queue[StepEvents]()
        super().__init__(thread, submissions, self._put)

    def _put(self, events: StepEvents) -> None:
        """Hand events to the loop: called on the engine's thread."""
        self._inbox.put(self._queue, events)
        if self._queue.qsize() > MOST_UNREAD:
            self.close()

    async def steps(self, idle_seconds: float | None = None) -> AsyncIterator[StepEvents]:
        """Yield the events of each step; an empty list where none comes for a while."""
        loop = asyncio.get_running_loop()
        while self.remaining:
            if idle_seconds is None:
                yield self.count(await self._queue.get())
                continue
            # `wait_for` would make a task for each step: a sixth of the loop's time.
            silence = loop.call_later(idle_seconds, self._queue.put_nowait, [])
            try:
                events = await self._queue.get()
            finally:
                silence.cancel()
            yield self.count(events)
