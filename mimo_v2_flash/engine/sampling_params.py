"""Sampling parameters of a request: how its tokens are chosen, and when it ends."""

import math
import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["SamplingParams"]

MAX_SEED = 2**64 - 1
LARGEST = 1e30  # times any logit or count of tokens, it is still a float32
MAX_LOGPROBS = 1000  # of a token; each is a number and an id in memory for every token


def _integer(minimum: int, maximum: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: _is(numbers.Integral, value) and minimum <= value <= maximum


def _is(kind: Any, value: Any) -> bool:
    """Return whether a number is of a kind; a bool does not count as a number."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _real(allows: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is(numbers.Real, value) and allows(value)


_shift = _real(lambda value: abs(value) <= LARGEST)


def _or_none(allows: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or allows(value)


def _biases(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _integer(0)(token) and _shift(bias) for token, bias in value.items()
    )


def _token_ids(value: Any) -> bool:
    return isinstance(value, Collection) and all(map(_integer(0), value))


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_or_none(_integer(0)), "an integer >= 0, or None (to the end of the context)"),
    "temperature": (_real(lambda t: 0 <= t <= LARGEST), "a number in [0, 1e30] (0: greedy)"),
    "top_k": (_real(lambda k: k >= -1 and k % 1 == 0), "an integer >= -1 (-1, 0: off)"),
    "top_p": (_real(lambda p: 0 <= p <= 1), "a number in [0, 1] (1: off)"),
    "min_p": (_real(lambda p: 0 <= p <= 1), "a number in [0, 1] (0: off)"),
    "repetition_penalty": (
        _real(lambda r: 1 / LARGEST <= r <= LARGEST),
        "a number in [1e-30, 1e30] (1: off)",
    ),
    "presence_penalty": (_shift, "a number in [-1e30, 1e30] (0: off)"),
    "frequency_penalty": (_shift, "a number in [-1e30, 1e30] (0: off)"),
    "logit_bias": (_biases, "a mapping of token ids to numbers in [-1e30, 1e30]"),
    "stop_token_ids": (_token_ids, "a sequence of token ids"),
    "ignore_eos": (lambda value: isinstance(value, bool), "True or False"),
    "min_tokens": (_integer(0), "an integer >= 0"),
    "logprobs": (_or_none(_integer(0, MAX_LOGPROBS)), f"None or an integer in 0..{MAX_LOGPROBS}"),
    "prompt_logprobs": (
        _or_none(_integer(0, MAX_LOGPROBS)),
        f"None or an integer in 0..{MAX_LOGPROBS}",
    ),
    "n": (_integer(1), "an integer >= 1"),
    "seed": (_or_none(_integer(0, MAX_SEED)), "None (fresh) or an integer in 0..2**64 - 1"),
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of a request; the default is greedy decoding to the end of the context.

    Logits are processed in this order: `logit_bias`, penalties, forbidden tokens (`min_tokens`,
    a constraint), temperature, top-k, top-p, min-p. Among equal logits at the border of a filter
    all survive, as in transformers' top-k.

    Attributes
    ----------
    max_tokens
        The most new tokens; None generates to the end of the context.
    temperature
        Divisor of the logits; 0 takes the largest one and uses no random number.
    top_k
        Keep the k largest logits; 0 and -1 keep all.
    top_p
        Keep the fewest tokens whose probabilities sum to at least this; 1 keeps all.
    min_p
        Keep the tokens of at least this fraction of the largest probability; 0 keeps all.
    repetition_penalty
        Divide positive and multiply negative logits of the tokens in prompt and answer, each once
        however often it occurs; above 1 discourages them, 1 is off.
    presence_penalty, frequency_penalty
        Subtract this from the logits of the tokens in the answer: once, and for each occurrence.
    logit_bias
        Numbers added to the logits of some token ids.
    stop_token_ids
        Token ids that end the answer, beside the model's end tokens.
    ignore_eos
        Whether the model's end tokens do not end the answer.
    min_tokens
        New tokens before which neither end tokens nor `stop_token_ids` are chosen.
    logprobs, prompt_logprobs
        Number of the most probable tokens to report with each new token, and with each token of the
        prompt; 0 reports the token itself, None nothing. Log-probabilities are those of the model:
        before temperature, biases and penalties.
    n
        Number of answers, which share the computation of the prompt.
    seed
        Key of the random numbers; None draws a fresh one, which the result names.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names field, value and what is allowed.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop_token_ids: Collection[int] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    n: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every field; NaN fails every comparison."""
        for name in (entry.name for entry in fields(self)):
            if name not in ALLOWED:  # of a subclass
                continue
            value, (allows, allowed) = getattr(self, name), ALLOWED[name]
            if not allows(value):
                raise ValueError(f"{name} is {value!r}, allowed is {allowed}")

        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    def limit(self, room: int) -> int:
        """Return the most new tokens of an answer in a context with `room` for so many."""
        return room if self.max_tokens is None else min(room, self.max_tokens)

    def check_token_ids(self, vocab_size: int) -> None:
        """Raise ValueError if a token id is outside of the vocabulary."""
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(self, name):
                if token >= vocab_size:
                    raise ValueError(
                        f"{name} has token id {token}, which is outside of the vocabulary "
                        f"0..{vocab_size - 1}"
                    )

    @property
    def is_greedy(self) -> bool:
        """Whether the token is the largest of the model's own logits."""
        return not (self.temperature or self.has_penalties or self.logit_bias)

    @property
    def has_penalties(self) -> bool:
        """Whether the tokens so far change the logits."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)
