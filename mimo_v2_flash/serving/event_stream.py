"""The engine's events for one API request: from Python as they come, or in a coroutine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

from mimo_v2_flash.engine import SamplingParams
from mimo_v2_flash.engine.outputs import Event
from mimo_v2_flash.engine.request import Constraint

from .engine_thread import EngineThread

__all__ = ["AsyncEventStream", "EventStream", "LoopInbox", "Submission"]

MOST_UNREAD = 4096  # events of an answer that a client has not read: a slow one is cut off


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
    """Events on their way from the engine's thread to streams of an event loop.

    The loop is woken once for all that has come by then, not for each request of a step.

    Parameters
    ----------
    loop
        The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._is_woken = loop, False
        self._pending = deque[tuple[Callable[[StepEvents], None], StepEvents]]()

    def put(self, listener: Callable[[StepEvents], None], events: StepEvents) -> None:
        """Let a listener be called with events; to be called on the engine's thread."""
        self._pending.append((listener, events))
        if not self._is_woken:  # else `_deliver` is still to come, and finds them
            self._is_woken = True
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False
        while self._pending:
            listener, events = self._pending.popleft()
            listener(events)


class AsyncEventStream(_Requests):
    """The same for a coroutine of the loop that an inbox belongs to.

    Parameters
    ----------
    thread : EngineThread
        The thread of the engine.
    submissions : sequence of Submission
        The requests whose events are streamed.
    inbox : LoopInbox
        The inbox of the loop.
    """

    def __init__(
        self, thread: EngineThread, submissions: Sequence[Submission], inbox: LoopInbox
    ) -> None:
        self._unread: StepEvents = []
        self._reader: asyncio.Future[None] | None = None  # it waits for events
        self._is_silent = False  # nothing has come since the last look
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(thread, submissions, partial(inbox.put, self._take))

    def _take(self, events: StepEvents) -> None:
        """Take events, and wake the reader."""
        self._unread += events
        self._is_silent = False
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if len(self._unread) > MOST_UNREAD * self.remaining:
            self.close()

    async def steps(self, idle_seconds: float | None = None) -> AsyncIterator[StepEvents]:
        """Yield what has come since the last time; an empty list where nothing has for a while.

        The silence is at most `idle_seconds`, and may be half of it.
        """
        loop = asyncio.get_running_loop()
        if idle_seconds is not None:
            self._look(loop, idle_seconds / 2)
        try:
            while self.remaining:
                if not self._unread:
                    self._reader = loop.create_future()
                    await self._reader
                events, self._unread = self._unread, []
                yield self.count(events)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _look(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Look from time to time whether anything has come: a timer for each step costs more."""
        if self._is_silent:
            self._take([])
        self._is_silent = True
        self._timer = loop.call_later(seconds, self._look, loop, seconds)
