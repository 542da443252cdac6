"""What the engine reports: events of each step, and the results of requests."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

__all__ = ["Answer", "Event", "RequestOutput", "TokenLogprob"]


class TokenLogprob(NamedTuple):
    """The log-probability of one token under the model, and of the most probable tokens there.

    Attributes
    ----------
    token, logprob
        The token's id, and the natural logarithm of its probability.
    rank
        How many tokens are at least as probable; the most probable one has rank 1.
    top
        (id, logprob) of the most probable tokens, the most probable first.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Event:
    """What one engine step added to one answer.

    Attributes
    ----------
    id, index
        The request, and which of its `n` answers.
    tokens
        The new tokens, an end token included.
    logprobs
        A `TokenLogprob` of each of them, if the request wants them.
    prompt_logprobs
        Those of the prompt's tokens that the step predicted, if the request wants them.
    finish_reason
        None while the answer goes on; "stop" (an end token, a constraint), "length" (`max_tokens`,
        or the end of the context), "cancelled" or "error".
    error
        What went wrong, if the reason is "error".
    cached_tokens
        How many tokens of the prompt were known at the start: keys and values were copied.
    queue_seconds
        How long the request had waited when the answer began to run.
    """

    id: int
    index: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: str | None = None
    error: Exception | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    queue_seconds: float = field(default=0.0, compare=False)

    def after(self, earlier: "Event | None") -> "Event":
        """Return one event of this one and an earlier one of the same answer and step."""
        if earlier is None:
            return self
        logprobs = self.logprobs
        if earlier.logprobs is not None:
            logprobs = earlier.logprobs + (logprobs or ())
        return replace(self, tokens=earlier.tokens + self.tokens, logprobs=logprobs)


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer of a request; fields are as in `Event`, of all its events together."""

    tokens: list[int]
    logprobs: list[TokenLogprob] | None
    finish_reason: str
    error: Exception | None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The result of a request.

    Attributes
    ----------
    answers
        Its `n` answers.
    prompt_logprobs
        A `TokenLogprob` of every token of the prompt but the first, if they were wanted.
    seed
        The seed that repeats the answers, unless they had none and drafts.
    """

    answers: tuple[Answer, ...]
    prompt_logprobs: list[TokenLogprob] | None
    seed: int

    @property
    def tokens(self) -> list[int]:
        """The first answer's tokens."""
        return self.answers[0].tokens

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """The first answer's log-probabilities."""
        return self.answers[0].logprobs

    @property
    def finish_reason(self) -> str:
        """The first answer's finish reason."""
        return self.answers[0].finish_reason
