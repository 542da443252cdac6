"""Grammars: the tokens that an answer's form allows, by llguidance, as engine constraints."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import APIError

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["JSON_OPTIONS", "GrammarCompiler", "GrammarConstraint"]

JSON_OPTIONS = {"whitespace_pattern": r"[ \n\r\t]{1,20}"}
"""Of llguidance: by default a small model may write whitespace within JSON until its limit."""


class GrammarCompiler:
    """Compiler of grammars for one tokenizer.

    Parameters
    ----------
    tokenizer
        The tokenizer, from `load_tokenizer`.
    vocab_size
        Rows of the model's vocabulary.
    end_tokens
        Token ids that end an answer: what a grammar allows at its end.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, end_tokens: Collection[int]) -> None:
        self._tokenizer, self._vocab_size, self._ends = tokenizer, vocab_size, sorted(end_tokens)

    @cached_property
    def _vocab(self) -> Any:
        """The vocabulary as llguidance has it: a second for a large one, once."""
        try:
            from llguidance import LLTokenizer  # noqa: PLC0415  an extra
        except ImportError as error:
            message = 'structured output needs llguidance: pip install "mimo-v2-flash[serve]"'
            raise APIError(message, status=501) from error
        text = self._tokenizer.backend_tokenizer.to_str()
        return LLTokenizer(text, n_vocab=self._vocab_size, eos_token=self._ends)

    def compile(self, kind: str, text: str, param: str) -> LLMatcher:
        """Return a matcher at the beginning of a grammar.

        Parameters
        ----------
        kind
            "json_schema", "regex", "choice" (a JSON list of texts), "grammar" or "lark".
        text
            The grammar.
        param
            The field of the request that has it, for errors.

        Raises
        ------
        APIError
            If the grammar is not understood.
        """
        vocab = self._vocab
        from llguidance import LLMatcher, grammar_from  # noqa: PLC0415

        try:
            if kind == "json_schema":
                grammar = LLMatcher.grammar_from_json_schema(text, JSON_OPTIONS)
            else:
                grammar = grammar_from(kind, text)
            error = LLMatcher.validate_grammar(grammar, vocab)
        except ValueError as raised:
            error = str(raised)
        if error:
            raise APIError(f"{param}: {' '.join(error.split())[:500]}", param=param)
        return LLMatcher(vocab, grammar, log_level=0)

    def constraint(self, matcher: LLMatcher, begins_after: int | None) -> GrammarConstraint:
        """Return the constraint of a matcher, from a token on, or from the answer's beginning."""
        return GrammarConstraint(matcher, self._vocab_size, begins_after)


class GrammarConstraint:
    """A grammar as a constraint of the engine.

    Parameters
    ----------
    matcher
        What is left of the grammar.
    vocab_size
        Rows of the model's vocabulary.
    begins_after
        The token after which the grammar holds, such as `</think>`; None for the beginning.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, begins_after: int | None) -> None:
        self._matcher, self._vocab_size, self._begins_after = matcher, vocab_size, begins_after
        self._length = 0  # tokens so far
        self._begin = 0 if begins_after is None else None  # index of the first token that it binds

    def mask(self) -> np.ndarray | None:
        """Return the tokens that the grammar allows next, bool [V]; None before it holds."""
        if self._begin is None:
            return None
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(words, count=self._vocab_size, bitorder="little").view(bool)

    def accept(self, token: int) -> str | None:
        """Take the next token; return "stop" where nothing may follow it."""
        self._length += 1
        if self._begin is None:
            if token == self._begins_after:
                self._begin = self._length
            return None
        self._matcher.consume_token(token)
        return "stop" if self._matcher.is_stopped() else None

    def rollback(self, n: int) -> None:
        """Take the last `n` tokens back."""
        if self._begin is not None:
            self._matcher.rollback(min(n, self._length - self._begin))
            if self._begins_after is not None and self._length - n < self._begin:
                self._begin = None
        self._length -= n

    def copy(self) -> GrammarConstraint:
        """Return an independent constraint in the same state."""
        other = GrammarConstraint(self._matcher.deep_copy(), self._vocab_size, self._begins_after)
        other._length, other._begin = self._length, self._begin
        return other
