"""What the answers to all kinds of requests share: id, time, usage, errors, the chunks of a stream.

An answer is built from the engine's events and does no input or output: a server and Python's
Runner feed it alike.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.text.stop_strings import StopDetokenizer

from .errors import APIError
from .event_stream import StepEvents, Submission
from .protocol import GenerationRequest
from .served_model import ServedModel

__all__ = ["Choice", "ResponseBuilder"]

FINGERPRINT = "mimo-v2-flash-numpy"


class Choice:
    """One of the answers to a request: its tokens so far, and why it ended.

    Parameters
    ----------
    index
        Its number in the request.
    prompt
        The number of its prompt.
    """

    def __init__(self, index: int, prompt: int) -> None:
        self.index, self.prompt = index, prompt
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: str | None = None
        self.stop_reason: str | int | None = None


class ResponseBuilder:
    """The response to a request in the making, from its first chunk to its end.

    Parameters
    ----------
    request
        The request, checked.
    served
        The model.
    submissions
        The prompts that the engine answers.

    Attributes
    ----------
    submissions
        The parameter of this name.
    choices
        The answers to all prompts: those of a prompt are neighbours.
    notes
        What a log should have beside the usage.
    """

    object = chunk_object = prefix = ""

    def __init__(
        self, request: GenerationRequest, served: ServedModel, submissions: Sequence[Submission]
    ) -> None:
        self.request, self.served, self.submissions = request, served, list(submissions)
        self.id, self.created = f"{self.prefix}-{uuid.uuid4().hex}", int(time.time())
        counts = [submission.params.n for submission in submissions]
        self.choices = [
            Choice(index, prompt)
            for index, prompt in enumerate(p for p, n in enumerate(counts) for _ in range(n))
        ]
        self._first = [sum(counts[:prompt]) for prompt in range(len(counts))]
        self.cached_tokens, self.queue_seconds, self.notes = 0, 0.0, dict[str, Any]()
        ends = frozenset() if request.ignore_eos else served.end_tokens
        self._end_tokens = ends.union(request.stop_token_ids or ())
        self._stream_usage = request.stream_usage

    def begin(self) -> list[dict[str, Any]]:
        """Return the chunks before the first token."""
        return []

    def push(self, events: StepEvents) -> list[dict[str, Any]]:
        """Take a step's events, and return the chunks that they make.

        Raises
        ------
        APIError
            If the engine could not answer.
        """
        chunks = []
        for number, event in events:
            if event.finish_reason in {"error", "cancelled"}:
                raise _failure(event)
            choice = self.choices[self._first[number] + event.index]
            self.cached_tokens = max(self.cached_tokens, event.cached_tokens)
            self.queue_seconds = max(self.queue_seconds, event.queue_seconds)
            choice.tokens += event.tokens
            choice.logprobs += event.logprobs or ()
            choice.finish_reason = event.finish_reason
            chunks += self._choice_chunks(choice, event)
        if self._stream_usage.continuous_usage_stats:
            chunks = [chunk | {"usage": self.usage()} for chunk in chunks]
        return chunks

    def _choice_chunks(self, choice: Choice, event: Event) -> list[dict[str, Any]]:
        """Take an event of a choice, and return the chunks that it makes."""
        raise NotImplementedError

    def end(self) -> list[dict[str, Any]]:
        """Return the chunks after the last token."""
        if not self._stream_usage.include_usage:
            return []
        return [self._chunk([]) | {"usage": self.usage()}]

    def failure(self, error: APIError) -> list[dict[str, Any]]:
        """Return the last chunk of a stream that fails."""
        return [error.body()]

    def text_tokens(self, choice: Choice, event: Event) -> Sequence[int]:
        """Return an event's tokens without the one that ended the answer, which is not shown."""
        is_end = (
            event.finish_reason == "stop"
            and event.tokens[-1:]
            and (event.tokens[-1] in self._end_tokens)
        )
        if is_end and event.tokens[-1] in (self.request.stop_token_ids or ()):
            choice.stop_reason = event.tokens[-1]
        return event.tokens[:-1] if is_end else event.tokens

    def usage(self) -> dict[str, Any]:
        """Return how many tokens there were; a prompt counts once, an end token counts."""
        prompt = sum(len(submission.prompt_tokens) for submission in self.submissions)
        completion = sum(len(choice.tokens) for choice in self.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def result(self) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [self._choice_object(choice) for choice in self.choices]
        return self._head(self.object, choices) | {"usage": self.usage()}

    def _choice_object(self, choice: Choice) -> dict[str, Any]:
        """Return a choice of the whole answer."""
        raise NotImplementedError

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head(self.chunk_object, choices)

    def _head(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }

    def stop_detokenizer(self) -> StopDetokenizer:
        """Return a detokenizer of a new answer, which ends before a stop string."""
        request = self.request
        minimum = request.min_tokens or 0
        return StopDetokenizer(self.served.tokenizer, request.stops, min_tokens=minimum)


def _failure(event: Event) -> APIError:
    if event.finish_reason == "cancelled":
        return APIError("the request was cancelled: the server shuts down", status=503)
    if isinstance(event.error, ValueError):
        return APIError(f"the model failed: {event.error}", status=500)
    return APIError("the engine failed", status=500)
