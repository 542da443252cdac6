"""An answer while the engine works on it: whole for a coroutine, or as server-sent events."""

import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from .answers import Answer
from .errors import APIError
from .event_stream import AsyncEventStream, StepEvents
from .metrics import Metrics

__all__ = ["RunningAnswer"]

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


class RunningAnswer:
    """An answer that has been submitted; `close` cancels what is left, measures and logs it.

    Parameters
    ----------
    answer, stream
        The answer, and the engine's events for it.
    metrics, log
        What counts it, and its line of the log.
    on_close
        Called with this object when it is closed.
    """

    def __init__(
        self,
        answer: Answer,
        stream: AsyncEventStream,
        metrics: Metrics,
        log: dict[str, Any],
        on_close: Callable[["RunningAnswer"], None],
    ) -> None:
        self._answer, self._stream, self._metrics, self._log = answer, stream, metrics, log
        self._on_close, self._start = on_close, time.perf_counter()
        self._last, self._is_closed = self._start, False

    def cancel(self) -> None:
        """End the answer early; who waits for it gets an error."""
        self._stream.close()

    def close(self) -> None:
        """End the answer if it goes on; count and log it, once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stream.close()
        self._count()
        self._on_close(self)

    async def whole(self) -> dict[str, Any]:
        """Return the whole answer."""
        async for events in self._steps(None):
            self._answer.push(events)
        return self._answer.result()

    async def sent_events(self, keep_alive_seconds: float) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events, with comments where it is silent for long."""
        try:
            yield _sent(self._answer.begin())
            async for events in self._steps(keep_alive_seconds):
                yield _sent(self._answer.push(events)) if events else KEEP_ALIVE
            yield _sent(self._answer.end())
        except APIError as error:
            self._log["error"] = str(error)
            yield _sent([error.body()])
        yield DONE

    async def _steps(self, idle_seconds: float | None) -> AsyncIterator[StepEvents]:
        """Yield the events of each step, and measure them."""
        async for events in self._stream.steps(idle_seconds):
            if any(event.tokens for _, event in events):
                now, is_first = time.perf_counter(), self._last == self._start
                self._metrics.token(now - self._last, is_first=is_first)
                self._log.setdefault("first_token_seconds", round(now - self._start, 6))
                self._last = now
            yield events

    def _count(self) -> None:
        usage, choices = self._answer.usage(), self._answer.choices
        self._log |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
        self._log |= self._answer.notes
        self._log["finish_reasons"] = [choice.finish_reason or "abort" for choice in choices]
        seconds = time.perf_counter() - self._start
        for choice in choices:
            reason, tokens = choice.finish_reason or "abort", len(choice.tokens)
            self._metrics.finished(reason, usage["prompt_tokens"], tokens, seconds)


def _sent(chunks: list[dict[str, Any]]) -> bytes:
    """Return chunks as server-sent events."""
    return b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)
