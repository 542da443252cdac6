"""Constraints of the engine that know text: stop strings, and a budget for thinking."""

from collections import deque
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from mimo_v2_flash.engine.request import Constraint
from mimo_v2_flash.inputs import as_count

from .chat_template import THINK_END
from .stop_strings import StopDetokenizer

__all__ = ["AllConstraints", "StopStrings", "ThinkingBudget"]

MOST_ROLLBACK = 64  # tokens of one draft, and more


class StopStrings:
    """A constraint that ends an answer when its text holds a stop string.

    Whoever shows the text cuts it with the same stop strings: `OutputParser`, `StopDetokenizer`.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    stop, min_tokens
        As for `StopDetokenizer`.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], min_tokens: int = 0) -> None:
        state = StopDetokenizer(tokenizer, stop, min_tokens=min_tokens)
        self._states = deque([state], maxlen=MOST_ROLLBACK + 1)

    def mask(self) -> None:
        """Return None: every token may come next."""

    def accept(self, token: int) -> str | None:
        """Take the next token; return "stop" if a stop string is complete."""
        state = self._states[-1].copy()
        state.push(token)
        self._states.append(state)
        return None if state.stop_reason is None else "stop"

    def rollback(self, n: int) -> None:
        """Take the last `n` tokens back, up to 64; ValueError for more."""
        if n >= len(self._states):
            raise ValueError(f"{n} tokens to take back, there are {len(self._states) - 1}")
        for _ in range(n):
            self._states.pop()

    def copy(self) -> "StopStrings":
        """Return an independent constraint in the same state."""
        other = object.__new__(StopStrings)
        other._states = self._states.copy()  # states are not changed, only replaced
        return other


class ThinkingBudget:
    """A constraint that ends thinking: after `limit` tokens of it, `</think>` alone may come.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    limit : int
        The most tokens before `</think>`, a `<think>` of the model's included.
    vocab_size : int
        Width of the mask: the model's vocabulary.

    Raises
    ------
    ValueError
        If the tokenizer has no `</think>`, or the limit is no integer >= 0.

    Notes
    -----
    It is for answers that begin with thinking (`ChatPrompt.is_reasoning`). vLLM's name of the limit
    is `thinking_token_budget`.
    """

    def __init__(self, tokenizer: Any, limit: int, vocab_size: int) -> None:
        self._limit = as_count("limit", limit, minimum=0)
        end = tokenizer.added_tokens_encoder.get(THINK_END)
        if end is None:
            raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no {THINK_END}")
        self._end: int = end
        self._only_end_V = np.arange(vocab_size) == end
        self._tokens = 0
        self._ended_at: int | None = None  # how many tokens there were when thinking ended

    def mask(self) -> np.ndarray | None:
        """Return which tokens may come next: `</think>`, or None for all."""
        is_over = self._ended_at is None and self._tokens >= self._limit
        return self._only_end_V if is_over else None

    def accept(self, token: int) -> None:
        """Take the next token."""
        if token == self._end and self._ended_at is None:
            self._ended_at = self._tokens
        self._tokens += 1

    def rollback(self, n: int) -> None:
        """Take the last `n` tokens back."""
        self._tokens -= n
        if self._ended_at is not None and self._ended_at >= self._tokens:
            self._ended_at = None

    def copy(self) -> "ThinkingBudget":
        """Return an independent constraint in the same state."""
        other = object.__new__(ThinkingBudget)
        vars(other).update(vars(self))
        return other


class AllConstraints:
    """Several constraints as one: a token may come next if all of them allow it.

    Parameters
    ----------
    *constraints
        Each of them; this one owns them.
    """

    def __init__(self, *constraints: Constraint) -> None:
        self._constraints = constraints

    def mask(self) -> np.ndarray | None:
        """Return which tokens may come next, bool [V]; None if all may."""
        masks = [mask for each in self._constraints if (mask := each.mask()) is not None]
        return reduce(np.logical_and, masks) if masks else None

    def accept(self, token: int) -> str | None:
        """Take the next token; return what the first constraint that ends the answer returns."""
        verdicts = [each.accept(token) for each in self._constraints]
        return next((verdict for verdict in verdicts if verdict), None)

    def rollback(self, n: int) -> None:
        """Take the last `n` tokens back."""
        for each in self._constraints:
            each.rollback(n)

    def copy(self) -> "AllConstraints":
        """Return an independent constraint in the same state."""
        return AllConstraints(*(each.copy() for each in self._constraints))
