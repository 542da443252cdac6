"""The service behind the API: it takes requests for the one engine, until it drains."""

from functools import partial
from typing import Any

from mimo_v2_flash.engine import QueueFullError

from .answers import Answer
from .chat_completion import ChatCompletion
from .completion import Completion
from .engine_thread import EngineThread
from .errors import APIError
from .event_stream import AsyncEventStream
from .metrics import Metrics
from .protocol import ChatCompletionRequest, CompletionRequest, parse_request
from .running_answer import RunningAnswer
from .served_model import ServedModel

__all__ = ["Service"]

RETRY_SECONDS = 1  # after which a client asks again where the queue was full


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
        self._kinds: dict[Any, Any] = {
            ChatCompletionRequest: partial(ChatCompletion, drops_turns=drops_turns),
            CompletionRequest: Completion,
        }

    def check_open(self) -> None:
        """Raise APIError if no requests are answered."""
        if self.is_draining or not self.thread.is_alive:
            reason = "shuts down" if self.is_draining else "has failed"
            raise APIError(f"the server {reason}", status=503)

    def parse(self, kind: Any, body: bytes) -> Answer:
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
        answer: Answer = self._kinds[kind](request, self.served)
        return answer

    def start(self, answer: Answer, log: dict[str, Any]) -> RunningAnswer:
        """Let the engine answer; whoever starts an answer closes it.

        Raises
        ------
        APIError
            If the queue is full, the request can never fit, or the engine has failed.
        """
        self.check_open()
        try:
            stream = AsyncEventStream(self.thread, answer.submissions)
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
