"""What one request has alone: a loop of one row, without an engine."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.logprobs import token_logprobs
from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.engine.sampler import NO_TOKEN, Draw, Sampler
from mimo_v2_flash.layers.nonfinite import NonFiniteError

__all__ = ["Alone", "answer_alone", "prompt_logprobs_alone", "step_until_idle", "together"]

LogitsAfter = Callable[[Sequence[int]], np.ndarray]


class Alone(NamedTuple):
    """An answer: as `Answer`, with the type of its error."""

    tokens: list[int]
    finish_reason: str | None
    logprobs: list[TokenLogprob] | None
    error: type[Exception] | None


def answer_alone(
    logits_after: LogitsAfter,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    index: int = 0,
    eos: Sequence[int] = (),
    max_length: int,
    constraint: Any = None,
) -> Alone:
    """Return the answer `index` to a prompt, one token after the other."""
    ends = frozenset(params.stop_token_ids).union(() if params.ignore_eos else eos)
    room = max_length - len(prompt) + 1
    limit = room if params.max_tokens is None else min(room, params.max_tokens)
    answer, reason = _Answer(logits_after, prompt, params, index, ends), None
    constraint = constraint and constraint.copy()
    error: type[Exception] | None = None
    try:
        if params.prompt_logprobs is not None:  # then all of the prompt's logits are looked at,
            last = len(prompt) - (params.max_tokens == 0)  # those that predict a token of it
            for length in range(1, last + 1):
                _finite(logits_after(prompt[:length])[None])
        while reason is None and len(answer.tokens) < limit:
            reason = answer.grow(constraint)
    except (KeyError, ValueError) as raised:
        reason, error = "error", type(raised)
    logprobs = None if params.logprobs is None else answer.logprobs
    return Alone(answer.tokens, reason or "length", logprobs, error)


def _finite(logits_1V: np.ndarray) -> np.ndarray:
    if np.isnan(logits_1V).any():
        raise NonFiniteError((0,), {}, ())
    return logits_1V


class _Answer:
    """The answer of `answer_alone` in the making."""

    def __init__(
        self,
        logits_after: LogitsAfter,
        prompt: Sequence[int],
        params: SamplingParams,
        index: int,
        ends: frozenset[int],
    ) -> None:
        self._logits_after, self._prompt, self._params = logits_after, prompt, params
        self._index, self._ends = index, ends
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []

    def grow(self, constraint: Any) -> str | None:
        """Append a token; return "stop" if it ends the answer."""
        logits_1V = _finite(self._logits_after([*self._prompt, *self.tokens])[None])
        draw = Draw(
            self._params,
            self._params.seed or 0,
            self._index,
            len(self._prompt) + len(self.tokens),
            self._prompt,
            list(self.tokens),
            list(self._ends) if len(self.tokens) < self._params.min_tokens else [],
            constraint.mask() if constraint else None,
        )
        token = int(Sampler()(logits_1V, [draw])[0])
        if token == NO_TOKEN:
            raise ValueError("no token")
        self.tokens.append(token)
        self.logprobs += token_logprobs(logits_1V, np.array([token]), [self._params.logprobs or 0])
        verdict = constraint.accept(token) if constraint else None
        return "stop" if token in self._ends else verdict


def prompt_logprobs_alone(
    logits_after: LogitsAfter, prompt: Sequence[int], top: int
) -> list[TokenLogprob]:
    """Return the log-probabilities of a prompt's tokens but the first."""
    if len(prompt) < 2:
        return []
    logits_TV = np.stack([logits_after(prompt[:length]) for length in range(1, len(prompt))])
    return token_logprobs(logits_TV, np.array(prompt[1:]), [top] * len(logits_TV))


def together(events: Sequence[Event]) -> dict[tuple[int, int], Alone]:
    """Return the answers that all events together are, by request and index; check their form."""
    answer_of: dict[tuple[int, int], Alone] = {}
    for event in events:
        key = event.id, event.index
        before = answer_of.get(key, Alone([], None, None, None))
        assert before.finish_reason is None, f"{event} comes after the end"
        assert event.logprobs is None or len(event.logprobs) == len(event.tokens)
        says = event.tokens or event.finish_reason or event.prompt_logprobs
        assert says, f"{event} says nothing"
        assert (event.error is not None) == (event.finish_reason == "error")
        logprobs = before.logprobs
        if event.logprobs is not None:
            logprobs = [*(logprobs or []), *event.logprobs]
        answer_of[key] = Alone(
            [*before.tokens, *event.tokens],
            event.finish_reason,
            logprobs,
            None if event.error is None else type(event.error),
        )
    return answer_of


def step_until_idle(engine: Engine, most: int = 10_000) -> list[Event]:
    """Return the events of all steps until the engine has no work."""
    events: list[Event] = []
    for _ in range(most):
        if not engine.has_work:
            return events
        events += engine.step()
    raise AssertionError(f"the engine has work after {most} steps")
