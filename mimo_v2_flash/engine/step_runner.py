"""The step runner: it runs what was scheduled on the model, and returns what the next tokens need.

A model that pads its steps gets one step of all sequences that generate and one for each chunk of a
prompt, so that it has two numbers of rows: all, and one. Any other model gets one flat step.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mimo_v2_flash.layers.nonfinite import NonFiniteError

from .logprobs import token_logprobs
from .prefix_store import BLOCK
from .scheduler import PROMPT_LOGITS

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.model import MiMoV2FlashModel

    from .prefix_store import PrefixStore
    from .request import Sequence, TokenLogprob
    from .scheduler import ScheduledTokens

__all__ = ["StepResult", "StepRunner"]

NO_LOGITS = -1  # an index of `logits_at`


class StepResult(NamedTuple):
    """The sequences whose next token is to be chosen, and from what.

    Attributes
    ----------
    sequences
        The sequences.
    failed
        Sequences that got NaN or infinity, each with its error.
    token_R
        The argmax of the logits of `sequences`, where that is all that they need; else None.
    logits_RV
        Their logits, if `token_R` is None.
    scored
        Sequences whose prompts are scored, each with the log-probabilities of this step.
    """

    sequences: list[Sequence]
    failed: list[tuple[Sequence, NonFiniteError]]
    token_R: np.ndarray | None = None
    logits_RV: Any = None
    scored: SequenceOf[tuple[Sequence, list[TokenLogprob]]] = ()


class StepRunner:
    """Runs scheduled tokens on a model and a cache.

    Parameters
    ----------
    model, cache
        The model, and the cache whose rows the sequences have.
    prefixes
        The prefix store of each data-parallel rank; none if no prefix is kept.
    suppressed
        Token ids that are never chosen: where the argmax is one of them, logits are needed.
    """

    def __init__(
        self,
        model: MiMoV2FlashModel,
        cache: HybridCache,
        prefixes: SequenceOf[PrefixStore] = (),
        suppressed: frozenset[int] = frozenset(),
    ) -> None:
        self._model, self._cache, self.prefixes = model, cache, prefixes
        self._suppressed = suppressed

    def release(self) -> None:
        """Free the cache and all prefixes; nothing runs any more."""
        self.__dict__.pop("_cache", None)
        self.prefixes = ()

    def restore_prefix(self, sequence: Sequence) -> None:
        """Fill a sequence's row with what is known of its prompt."""
        request, row = sequence.request, sequence.row or 0
        if self.prefixes and request.params.prompt_logprobs is None:
            store = self.prefixes[self._cache.rank_of(row)]
            sequence.computed = sequence.reused = store.restore(request.prompt_tokens, row)

    def give_back(self, row: int, start: int, stop: int) -> bool:
        """Give the pages of a row's tokens back, as `HybridCache.give_back`."""
        return self._cache.give_back(row, start, stop)

    def resize_prefixes(self, rank: int, budget: int) -> None:
        """Let the prefixes of a data-parallel rank have another budget of bytes."""
        self.prefixes[rank].resize(budget)

    def run(self, scheduled: SequenceOf[ScheduledTokens]) -> Iterator[StepResult]:
        """Compute the scheduled tokens; yield the sequences of which all tokens are computed."""
        together = [part for part in scheduled if not self._is_apart(part.sequence)]
        if together:
            yield self._step(together, 0, self._cache.batch_size)
        apart = [part for part in scheduled if self._is_apart(part.sequence)]
        for parts in self._rectangles(apart):
            rows = [part.sequence.row or 0 for part in parts]
            yield self._step(parts, rows[0], rows[-1] + 1)

    def _rectangles(self, parts: list[ScheduledTokens]) -> Iterator[list[ScheduledTokens]]:
        """Yield chunks that are steps together, by rows: of prompts whose logits are wanted.

        Logits are a rectangle, from the first row to the last, which is not to be too large.
        """
        step: list[ScheduledTokens] = []
        for part in sorted(parts, key=lambda part: part.sequence.row or 0):
            longest = max(len(each.tokens) for each in [*step, part])
            first = (step or [part])[0].sequence.row or 0
            height = (part.sequence.row or 0) - first + 1
            if step and (self._model.pads_steps or height * longest > PROMPT_LOGITS):
                yield step
                step = []
            step.append(part)
        if step:
            yield step

    def _is_apart(self, sequence: Sequence) -> bool:
        """Return whether a sequence's chunk is a step of its own."""
        return sequence.is_prefill and (sequence.wants_prompt_logprobs or self._model.pads_steps)

    def _step(self, parts: list[ScheduledTokens], start: int, stop: int) -> StepResult:
        """Run one step of the rows from `start` to `stop` - 1."""
        by_row = {(part.sequence.row or 0) - start: part for part in parts}
        token_BT, position_BT = _padded(by_row, stop - start)
        wants_prompt = parts[0].sequence.wants_prompt_logprobs
        index_Bn = np.full((stop - start, 1), NO_LOGITS)
        for row, part in by_row.items():
            index_Bn[row] = len(part.tokens) - 1 if part.is_last else NO_LOGITS
        if wants_prompt:
            index_Bn = np.where(position_BT < 0, NO_LOGITS, np.arange(token_BT.shape[1]))
        token_Bn, logits_BnV, error = self._compute(token_BT, position_BT, start, index_Bn, by_row)
        ready = {row: part.sequence for row, part in by_row.items() if part.is_last}
        bad_rows = error.rows if error else ()
        self._finish(by_row, bad_rows)
        failed = [] if error is None else self._failed(by_row, error)
        chosen = [
            (row, each) for row in ready if row not in bad_rows for each in self._fork(ready[row])
        ]
        row_R, sequences = [row for row, _ in chosen], [sequence for _, sequence in chosen]
        scored = [
            (part.sequence, _add_prompt_logprobs(part, logits_BnV[row]))
            for row, part in by_row.items()
            if wants_prompt and row not in bad_rows
        ]
        if token_Bn is not None:
            return StepResult(sequences, failed, token_R=token_Bn[row_R, -1])
        last_R = [np.flatnonzero(index_Bn[row] != NO_LOGITS)[-1] for row in row_R]
        return StepResult(sequences, failed, logits_RV=logits_BnV[row_R, last_R], scored=scored)

    def _compute(
        self,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        start: int,
        index_Bn: np.ndarray,
        by_row: dict[int, ScheduledTokens],
    ) -> tuple[Any, Any, NonFiniteError | None]:
        """Return (token_Bn or None, logits_BnV, the error of rows that are not finite).

        The argmax of a program may be a suppressed token. A step of one token can then run again
        for its logits; after a longer one, the rings have no room to go back.
        """
        cache, model, error = self._view(start, len(token_BT)), self._model, None
        is_short = token_BT.shape[1] == 1 or not self._suppressed
        if is_short and all(map(_takes_argmax, by_row.values())):
            try:
                token_Bn, logit_Bn = model.greedy(token_BT, position_BT, cache, at=index_Bn)
            except NonFiniteError as raised:
                error, token_Bn, logit_Bn = raised, raised.outputs[0], raised.logits
                position_BT[list(raised.rows)], index_Bn[list(raised.rows)] = -1, NO_LOGITS
            if not self._suppressed.intersection(token_Bn[index_Bn >= 0].tolist()):
                return token_Bn, logit_Bn, error
        try:
            return None, model.step(token_BT, position_BT, cache, logits_at=index_Bn), error
        except NonFiniteError as raised:
            return None, raised.logits, raised

    def _failed(
        self, by_row: dict[int, ScheduledTokens], error: NonFiniteError
    ) -> list[tuple[Sequence, NonFiniteError]]:
        """Return the sequences of bad rows, each with its error."""
        return [
            (sequence, error.of_row(row, sequence.index))
            for row in error.rows
            for sequence in self._answers(by_row[row].sequence)
        ]

    def _view(self, start: int, rows: int) -> HybridCache:
        """Return the cache's rows from `start` on."""
        cache = self._cache
        return cache if rows == cache.batch_size else cache.view(start, start + rows)

    def _finish(self, by_row: dict[int, ScheduledTokens], bad_rows: SequenceOf[int]) -> None:
        """Record that parts have been computed, and keep the prefixes of those that are good."""
        parts = by_row.values()
        keeps = sum(len(part.tokens) for part in parts) <= self._model.max_step  # in one pass
        first_tokens = [0] * len(self.prefixes)
        for index, (sequence, tokens) in sorted(by_row.items()):
            row, start = sequence.row or 0, sequence.computed
            sequence.computed += len(tokens)
            if not self.prefixes:
                continue
            rank, is_block = self._cache.rank_of(row), start // BLOCK < sequence.computed // BLOCK
            if keeps and is_block and index not in bad_rows:
                self.prefixes[rank].save(sequence.seen(), row, start, first_tokens[rank])
            first_tokens[rank] += len(tokens)

    def _answers(self, sequence: Sequence) -> list[Sequence]:
        """Return a sequence, and at its prompt's end the other answers, which begin there."""
        if sequence.new_tokens:
            return [sequence]
        return [each for each in sequence.request.sequences if each.row is not None]

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """Return `_answers`, to whose rows the sequence's row is copied."""
        sequences = self._answers(sequence)
        for other in sequences:
            if other is not sequence and other.row is not None:
                self._cache.copy_sequence(sequence.row or 0, other.row)
                other.computed = sequence.computed
        return sequences


def _takes_argmax(part: ScheduledTokens) -> bool:
    """Return whether nothing but the argmax of a part's logits is needed, if that."""
    sequence = part.sequence
    return not sequence.wants_prompt_logprobs and (sequence.is_argmax or not part.is_last)


def _padded(by_row: dict[int, ScheduledTokens], height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (token_BT, position_BT) of parts by their rows, of which there are `height`."""
    width = max(len(part.tokens) for part in by_row.values())
    token_BT = np.zeros((height, width), np.int32)
    position_BT = np.full((height, width), -1, np.int32)
    for row, (sequence, tokens) in by_row.items():
        token_BT[row, : len(tokens)] = tokens
        position_BT[row, : len(tokens)] = np.arange(len(tokens)) + sequence.computed
    return token_BT, position_BT


def _add_prompt_logprobs(part: ScheduledTokens, logits_TV: np.ndarray) -> list[TokenLogprob]:
    """Add the log-probabilities of the prompt's tokens that a chunk predicts, and return them."""
    request = part.sequence.request
    first = len(request.prompt_logprobs) + 1
    known = request.prompt_tokens[first : first + len(part.tokens)]
    target_T = np.array([*known, *request.last_target][: len(part.tokens)], np.int64)
    top = [request.params.prompt_logprobs or 0] * len(target_T)
    scored = token_logprobs(logits_TV[: len(target_T)], target_T, top)
    request.prompt_logprobs += scored
    return scored
