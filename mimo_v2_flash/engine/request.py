"""Requests and their sequences: what the engine knows of each."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .outputs import Answer, Event, RequestOutput, TokenLogprob
from .sampling_params import SamplingParams

if TYPE_CHECKING:
    from .sampler import Draft

__all__ = [
    "Constraint",
    "QueueFullError",
    "Request",
    "Sequence",
    "most_tokens",
]


class Constraint(Protocol):
    """What an answer may be: a grammar, stop strings, a limit on thinking.

    Those who make it know text; the engine knows tokens.
    """

    def mask(self) -> np.ndarray | None:
        """Return which tokens may come next, bool [V]; None if all may."""

    def accept(self, token: int) -> str | None:
        """Take the next token; return "stop" if it ends the answer, else None."""

    def rollback(self, n: int) -> None:
        """Take the last `n` tokens back."""

    def copy(self) -> "Constraint":
        """Return an independent constraint in the same state."""


class QueueFullError(RuntimeError):
    """As many requests wait as may."""


@dataclass(eq=False)
class Request:
    """A prompt to answer.

    Attributes
    ----------
    id
        Its number, which `Engine.submit` returned.
    prompt_tokens, params, priority
        As for `Engine.submit`; the prompt without `last_target`.
    last_target
        The last token of a prompt that is only scored, which is predicted and not computed.
    end_tokens
        Token ids that end an answer.
    limit
        The most new tokens: fewer than `max_tokens` where the context ends.
    seed
        The seed of its noise: the parameters' or a fresh one.
    arrival
        When it was submitted, in seconds of the engine's clock.
    sequences
        One per answer.
    """

    id: int
    prompt_tokens: list[int]
    params: SamplingParams
    end_tokens: frozenset[int]
    limit: int
    seed: int
    priority: int = 0
    arrival: float = 0.0
    last_target: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    sequences: list["Sequence"] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether all of its answers have ended."""
        return all(sequence.finish_reason for sequence in self.sequences)

    @property
    def most_tokens(self) -> int:
        """The most tokens that each of its answers has in the cache."""
        return most_tokens(self.prompt_tokens, self.limit)

    def add_sequences(self, first_index: int, constraint: Constraint | None) -> None:
        """Begin the `n` answers, each with its index and a constraint of its own."""
        for index in range(first_index, first_index + self.params.n):
            copied = constraint.copy() if constraint else None
            self.sequences.append(Sequence(self, index, copied))

    def end(self, reason: str, error: Exception | None = None) -> list[Event]:
        """End the answers that have not ended, and return their events."""
        return [each.end(reason, error) for each in self.sequences if not each.finish_reason]

    def output(self) -> RequestOutput:
        """Return the result of a finished request."""
        wanted = self.params.prompt_logprobs is not None
        return RequestOutput(
            tuple(sequence.answer() for sequence in self.sequences),
            self.prompt_logprobs if wanted else None,
            self.seed,
        )


def most_tokens(prompt: list[int], limit: int) -> int:
    """Return the most tokens of a prompt and its answer in the cache: the last is not fed back."""
    return len(prompt) + max(limit - 1, 0)


@dataclass(eq=False)
class Sequence:
    """One answer in the making: a row of the KV cache while it runs.

    Attributes
    ----------
    request, index
        The request, and which of its answers.
    constraint
        What the answer may be; None for anything.
    row, rank
        Its row of the cache, None while it waits and after its end; the data-parallel rank of it.
    computed, reused
        How many of its tokens are in the cache, and how many of them were there at its start.
    new_tokens, logprobs
        What has been generated.
    drafts
        What MTP heads propose to follow; the next step verifies it.
    mtp_computed
        Of each MTP head, how many tokens it has read.
    drafted, accepted
        How many drafts the last step had of it, and how many of them became its tokens.
    refusals, draft_pause
        Steps in a row that refused all its drafts, and steps in which it has none therefore.
    skips_drafts
        Whether the next step is to have none: a draft has made the last one NaN or infinite.
    finish_reason, error
        As in `Event`.
    last_time
        When its last token was chosen, in seconds of the engine's clock.
    queue_seconds
        As in `Event`.
    """

    request: Request
    index: int
    constraint: Constraint | None = None
    row: int | None = None
    rank: int = 0
    computed: int = 0
    reused: int = 0
    new_tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    drafts: "list[Draft]" = field(default_factory=list)
    mtp_computed: list[int] = field(default_factory=list)
    drafted: int = 0
    accepted: int = 0
    refusals: int = 0
    draft_pause: int = 0
    skips_drafts: bool = False
    finish_reason: str | None = None
    error: Exception | None = None
    last_time: float | None = None
    queue_seconds: float = 0.0

    @property
    def running_row(self) -> int:
        """Its row; a sequence that waits or has ended has none, and is not to be asked for it."""
        if self.row is None:
            raise RuntimeError(f"answer {self.index} of request {self.request.id} has no row")
        return self.row

    @property
    def length(self) -> int:
        """Number of its tokens, prompt and answer."""
        return len(self.request.prompt_tokens) + len(self.new_tokens)

    @property
    def is_prefill(self) -> bool:
        """Whether a part of its prompt is still to be computed."""
        return self.computed < len(self.request.prompt_tokens)

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the logits of its prompt are needed."""
        return self.is_prefill and self.request.params.prompt_logprobs is not None

    @property
    def is_early(self) -> bool:
        """Whether `min_tokens` forbids its end."""
        return self.is_early_after(0)

    def is_early_after(self, drafts: int) -> bool:
        """Return whether `min_tokens` forbids its end after so many tokens more."""
        return len(self.new_tokens) + drafts < self.request.params.min_tokens

    @property
    def is_argmax(self) -> bool:
        """Whether its next token is the argmax of the model's logits, and nobody asks for them."""
        params = self.request.params
        is_plain = params.is_greedy and params.logprobs is None
        return is_plain and self.constraint is None and not self.is_early

    def unseen(self, limit: int) -> list[int]:
        """Return up to `limit` of the next tokens that the model has not seen."""
        prompt, start = self.request.prompt_tokens, self.computed
        if start < len(prompt):
            return prompt[start : start + limit]
        return self.new_tokens[start - len(prompt) :][:limit]

    def latest(self, count: int) -> list[int]:
        """Return its last `count` tokens, of the prompt too."""
        missing = count - len(self.new_tokens)
        before = self.request.prompt_tokens[-missing:] if missing > 0 else []
        return [*before, *self.new_tokens[-count:]]

    def end(
        self,
        reason: str | None,
        error: Exception | None = None,
        *,
        tokens: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprob, ...] | None = None,
    ) -> Event:
        """End the sequence, unless `reason` is None, and return the event of its new `tokens`.

        Parameters
        ----------
        reason : str or None
            Why the sequence ends; None if it goes on.
        error : Exception, optional
            What ended it, if it failed.
        tokens : tuple of int
            New tokens.
        logprobs : tuple of TokenLogprob, optional
            Their log-probabilities, if they were asked for.
        """
        self.finish_reason, self.error = reason, error
        reused = self.request.sequences[0].reused
        event = self.request.id, self.index, tokens, logprobs, reason, error
        return Event(*event, cached_tokens=reused, queue_seconds=self.queue_seconds)

    def answer(self) -> Answer:
        """Return the answer of a sequence that has ended."""
        wanted = self.request.params.logprobs is not None
        return Answer(
            self.new_tokens,
            self.logprobs if wanted else None,
            self.finish_reason or "",
            self.error,
        )
