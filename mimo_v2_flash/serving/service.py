"""The service behind the API: it takes requests for the one engine, until it drains."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from mimo_v2_flash.engine import QueueFullError

from .answers import ResponseBuilder
from .chat_completion import ChatCompletionBuilder
from .completion import CompletionBuilder
from .engine_thread import EngineThread
from .errors import APIError
from .event_stream import AsyncEventStream, LoopInbox, StepEvents
from .json_bytes import json_bytes
from .metrics import Metrics
from .protocol import ChatCompletionFields, CompletionFields, ResponseFields, parse_request
from .responses import ResponsesBuilder
from .served_model import ServedModel

__all__ = ["RunningAnswer", "Service"]

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
RETRY_SECONDS = 1  # after which a client asks again where the queue was full


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
        answer: ResponseBuilder,
        stream: AsyncEventStream,
        metrics: Metrics,
        log: dict[str, Any],
        on_close: Callable[["RunningAnswer"], None],
    ) -> None:
        self._answer, self._stream, self._metrics, self._log = answer, stream, metrics, log
        self._on_close, self._start = on_close, time.perf_counter()
        self._first: float | None = None  # seconds to the first token
        self._last: float | None = None  # when the last tokens came
        self._is_closed = False

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
        async for events in self._stream.steps():
            self._measure(events)
            self._answer.push(events)
        return self._answer.result()

    async def sent_events(self, keep_alive_seconds: float) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events, with comments where it is silent for long."""
        try:
            yield _sent(self._answer.begin())
            async for events in self._stream.steps(keep_alive_seconds):
                self._measure(events)
                chunks = self._answer.push(events)
                if chunks or not events:
                    yield _sent(chunks) if events else KEEP_ALIVE
            yield _sent(self._answer.end()) + DONE
        except APIError as error:
            self._log["error"] = str(error)
            yield _sent(self._answer.failure(error)) + DONE

    def _measure(self, events: StepEvents) -> None:
        """Measure the time to the tokens of some events."""
        if not any(event.tokens for _, event in events):
            return
        now = time.perf_counter()
        if self._last is None:
            self._first = now - self._start
            self._log["first_token_seconds"] = round(self._first, 6)
            self._metrics.first_token(self._first)
        else:
            self._metrics.next_token(now - self._last)
        self._last = now

    def _count(self) -> None:
        usage, choices = self._answer.usage(), self._answer.choices
        self._log |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
        self._log |= self._answer.notes
        self._log["finish_reasons"] = [choice.finish_reason or "abort" for choice in choices]
        seconds = time.perf_counter() - self._start
        for choice in choices:
            reason, tokens = choice.finish_reason or "abort", len(choice.tokens)
            self._metrics.finished(reason, usage["prompt_tokens"], tokens, seconds)
            if self._first is not None:
                times = (self._answer.queue_seconds, self._first, seconds)
                self._metrics.phases(*times, completion_tokens=tokens)


class Service:
    """Answers requests of OpenAI's API for the coroutines of one event loop.

    Parameters
    ----------
    served, thread
        The model, and the thread of its engine.
    drops_turns
        Whether chats that are too long lose their oldest turns; otherwise they are refused.

    Attributes
    ----------
    is_draining
        Whether no more requests are taken.
    running
        The answers that the engine works on.
    """

    def __init__(
        self, served: ServedModel, thread: EngineThread, *, drops_turns: bool = True
    ) -> None:
        self.served, self.thread, self.is_draining = served, thread, False
        self.metrics = Metrics(served.name, lambda: thread.stats)
        self.running = set[RunningAnswer]()
        self._inbox: LoopInbox | None = None
        self._kinds: dict[Any, Any] = {
            ChatCompletionFields: partial(ChatCompletionBuilder, drops_turns=drops_turns),
            CompletionFields: CompletionBuilder,
            ResponseFields: partial(ResponsesBuilder, drops_turns=drops_turns),
        }

    def check_open(self) -> None:
        """Raise APIError if no requests are answered."""
        if self.is_draining or not self.thread.is_alive:
            reason = "shuts down" if self.is_draining else "has failed"
            raise APIError(f"the server {reason}", status=503)

    def parse(self, kind: Any, body: bytes) -> ResponseBuilder:
        """Return the answer to a request, not yet begun.

        It is slow for long prompts, and may be called from any thread.

        Raises
        ------
        APIError
            If the request is malformed, for another model, or too long.
        """
        request = parse_request(kind, body)
        self.served.check_name(request.model)
        request.check()
        answer: ResponseBuilder = self._kinds[kind](request, self.served)
        return answer

    def start(self, answer: ResponseBuilder, log: dict[str, Any]) -> RunningAnswer:
        """Let the engine answer; whoever starts an answer closes it.

        Raises
        ------
        APIError
            If the queue is full, the request can never fit, or the engine has failed.
        """
        self.check_open()
        if self._inbox is None:
            self._inbox = LoopInbox(asyncio.get_running_loop())
        try:
            stream = AsyncEventStream(self.thread, answer.submissions, self._inbox)
        except QueueFullError as error:
            raise APIError(str(error), status=429, retry_after=RETRY_SECONDS) from error
        except ValueError as error:
            raise APIError(str(error)) from error
        except RuntimeError as error:
            raise APIError(f"the engine has failed: {error}", status=503) from error
        running = RunningAnswer(answer, stream, self.metrics, log, self.running.discard)
        self.running.add(running)
        return running

    def abort(self) -> None:
        """End all answers; their clients are told."""
        for running in self.running:
            running.cancel()


def _sent(chunks: list[dict[str, Any]]) -> bytes:
    """Return chunks as server-sent events; the type of a chunk is the event's name."""
    return b"".join(b"%sdata: %s\n\n" % (_name(chunk), json_bytes(chunk)) for chunk in chunks)


def _name(chunk: dict[str, Any]) -> bytes:
    return b"event: %s\n" % chunk["type"].encode() if "type" in chunk else b""
