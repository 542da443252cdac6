"""Constraints of the tests: a fixed set of sequences, a fixed mask, and one that fails."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["FailingConstraint", "FixedMask", "TrieConstraint"]


class TrieConstraint:
    """Allows the sequences of a set, and ends with the last token of one that no other continues.

    Parameters
    ----------
    sequences
        The allowed answers.
    vocabulary
        Number of tokens.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], vocabulary: int, tokens: Sequence[int] = ()
    ) -> None:
        self.sequences, self.vocabulary = [tuple(each) for each in sequences], vocabulary
        self.tokens = list(tokens)

    def mask(self) -> np.ndarray | None:
        """Return the tokens that continue one of the sequences."""
        mask_V = np.zeros(self.vocabulary, bool)
        mask_V[list(self._next_tokens())] = True
        return mask_V

    def accept(self, token: int) -> str | None:
        """Take a token, which must be one of those that were allowed."""
        assert token in self._next_tokens()
        self.tokens.append(token)
        return None if self._next_tokens() else "stop"

    def rollback(self, n: int) -> None:
        """Take tokens back."""
        del self.tokens[len(self.tokens) - n :]

    def copy(self) -> "TrieConstraint":
        """Return the same set after the same tokens."""
        return TrieConstraint(self.sequences, self.vocabulary, self.tokens)

    def _next_tokens(self) -> set[int]:
        n = len(self.tokens)
        begun = [each for each in self.sequences if each[:n] == tuple(self.tokens)]
        return {each[n] for each in begun if len(each) > n}


class FailingConstraint:
    """Allows anything, and raises KeyError after some tokens.

    Parameters
    ----------
    method
        "mask" or "accept": which method raises.
    after
        How many tokens pass before.
    """

    def __init__(self, method: str, after: int, count: int = 0) -> None:
        self.method, self.after, self.count = method, after, count

    def mask(self) -> np.ndarray | None:
        """Return None: all tokens may come next."""
        self._check("mask")

    def accept(self, token: int) -> str | None:
        """Count a token."""
        self._check("accept")
        self.count += 1

    def rollback(self, n: int) -> None:
        """Take tokens back."""
        self.count -= n

    def copy(self) -> "FailingConstraint":
        """Return one that fails at the same token."""
        return FailingConstraint(self.method, self.after, self.count)

    def _check(self, method: str) -> None:
        if (method, self.after) == (self.method, self.count):
            raise KeyError(f"{method} after {self.after} tokens")


class FixedMask(FailingConstraint):
    """Has one mask, or something that is none."""

    def __init__(self, mask_V: Any) -> None:
        super().__init__("mask", -1)
        self._mask_V = mask_V

    def mask(self) -> Any:
        """Return it."""
        return self._mask_V

    def copy(self) -> "FixedMask":
        """Return the same."""
        return FixedMask(self._mask_V)
