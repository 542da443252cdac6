"""The step runner: it runs what was scheduled on the model, and returns what the next tokens need.

A model that pads its steps gets one step of all sequences that generate and one for each chunk of a
prompt, so that it has two numbers of rows: all, and one. Any other model gets one flat step.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .logprobs import token_logprobs
from .scheduler import PROMPT_LOGITS
from .worker import RowTokens, StepPlan

if TYPE_CHECKING:
    from mimo_v2_flash.layers.nonfinite import NonFiniteError

    from .executor import Executor
    from .outputs import TokenLogprob
    from .request import Request, Sequence
    from .scheduler import ScheduledTokens

__all__ = ["StepResult", "StepRunner"]


class StepResult(NamedTuple):
    """The sequences whose next token is to be chosen, and from what.

    Attributes
    ----------
    sequences
        The sequences.
    failed
        Sequences that got NaN or infinity, each with its error.
    token_Rn
        The argmax of the logits of `sequences`, where that is all that they need; else None. The
        first column is after the last token, the others are after each draft, if there are any.
    logits_RnV
        Their logits, if `token_Rn` is None.
    scored
        Sequences whose prompts are scored, each with the log-probabilities of this step.
    """

    sequences: list[Sequence]
    failed: list[tuple[Sequence, NonFiniteError]]
    token_Rn: np.ndarray | None = None
    logits_RnV: Any = None
    scored: SequenceOf[tuple[Sequence, list[TokenLogprob]]] = ()

    @property
    def outputs(self) -> Any:
        """What the tokens are chosen from, [R, n] or [R, n, V]."""
        return self.logits_RnV if self.token_Rn is None else self.token_Rn


class StepRunner:
    """Makes plans of scheduled tokens, and reads what the ranks return.

    Parameters
    ----------
    executor
        It lets all ranks execute plans.
    rows
        The rows of the cache.
    suppressed
        Token ids that are never chosen: where the argmax is one of them, logits are needed.
    pads_steps
        Whether the model pads its steps.
    """

    def __init__(
        self,
        executor: Executor,
        rows: int,
        suppressed: frozenset[int] = frozenset(),
        pads_steps: bool = False,
    ) -> None:
        self._executor, self._rows = executor, rows
        self._pads_steps, self._suppressed = pads_steps, suppressed

    def known_prefix(self, request: Request, rank: int) -> int:
        """Return how many tokens of a prompt need not be computed on a data-parallel rank."""
        if request.params.prompt_logprobs is not None:
            return 0
        return self._executor.known(rank, request.prompt_tokens)

    def restore_prefix(self, sequence: Sequence) -> None:
        """Fill a sequence's row with what is known of its prompt."""
        request = sequence.request
        if request.params.prompt_logprobs is None:
            start = self._executor.restore(sequence.running_row, request.prompt_tokens)
            sequence.computed = sequence.reused = start
        sequence.mtp_computed = [0] * self._executor.mtp_heads

    def run(self, scheduled: SequenceOf[ScheduledTokens]) -> Iterator[StepResult]:
        """Compute the scheduled tokens; yield the sequences of which all tokens are computed."""
        together = [part for part in scheduled if not self._is_apart(part.sequence)]
        if together:
            yield self._step(together, 0, self._rows)
        apart = [part for part in scheduled if self._is_apart(part.sequence)]
        for parts in self._rectangles(apart):
            rows = [part.sequence.running_row for part in parts]
            yield self._step(parts, rows[0], rows[-1] + 1 - rows[0])

    def _rectangles(self, parts: list[ScheduledTokens]) -> Iterator[list[ScheduledTokens]]:
        """Yield chunks that are steps together, by rows: of prompts whose logits are wanted.

        Logits are a rectangle, from the first row to the last, which is not to be too large.
        """
        step: list[ScheduledTokens] = []
        for part in sorted(parts, key=lambda part: part.sequence.running_row):
            longest = max(len(each.tokens) for each in [*step, part])
            first = (step or [part])[0].sequence.running_row
            height = part.sequence.running_row - first + 1
            if step and (self._pads_steps or height * longest > PROMPT_LOGITS):
                yield step
                step = []
            step.append(part)
        if step:
            yield step

    def _is_apart(self, sequence: Sequence) -> bool:
        """Return whether a sequence's chunk is a step of its own."""
        return sequence.is_prefill and (sequence.wants_prompt_logprobs or self._pads_steps)

    def _step(self, parts: list[ScheduledTokens], first_row: int, rows: int) -> StepResult:
        """Run one step of some rows of the cache."""
        by_row = {part.sequence.running_row: part for part in parts}
        by_row = dict(sorted(by_row.items()))
        row_tokens = tuple(map(_row_tokens, by_row.values()))
        plan = StepPlan(first_row, rows, row_tokens, greedy=False)
        token_Bn, logits_BnV, errors = self._compute(plan, by_row)
        for row in self._refused(by_row, errors):
            del errors[row], by_row[row]
        scored = [
            (part.sequence, _add_prompt_logprobs(part, logits_BnV[row - first_row]))
            for row, part in by_row.items()
            if part.sequence.wants_prompt_logprobs and row not in errors
        ]
        ready = {row: part.sequence for row, part in by_row.items() if part.is_last}
        for part in by_row.values():
            part.sequence.computed += len(part.tokens)
            part.sequence.skips_drafts = False
        failed = [
            (sequence, errors[row].of_row(row - first_row, sequence.index))
            for row in sorted(errors)
            for sequence in self._answers(by_row[row].sequence)
        ]
        chosen = [
            (row - first_row, each)
            for row in ready
            if row not in errors
            for each in self._fork(ready[row])
        ]
        index_R, sequences = [index for index, _ in chosen], [sequence for _, sequence in chosen]
        index_R1, column_Rn = plan.columns(index_R)
        if token_Bn is not None:
            return StepResult(sequences, failed, token_Rn=token_Bn[index_R1, column_Rn])
        logits_RnV = logits_BnV[index_R1, column_Rn]
        return StepResult(sequences, failed, logits_RnV=logits_RnV, scored=scored)

    def _refused(
        self, by_row: dict[int, ScheduledTokens], errors: dict[int, NonFiniteError]
    ) -> list[int]:
        """Return the rows whose error may be that of a draft: they go on without one.

        What came before the step has to be in the cache still.
        """
        rows = [row for row in errors if by_row[row].drafts]
        rows = [row for row in rows if self._executor.length(row) == by_row[row].sequence.computed]
        for row in rows:
            sequence = by_row[row].sequence
            sequence.drafts, sequence.accepted, sequence.skips_drafts = [], 0, True
        return rows

    def _compute(
        self, plan: StepPlan, by_row: dict[int, ScheduledTokens]
    ) -> tuple[Any, Any, dict[int, NonFiniteError]]:
        """Return (token_Bn or None, logits_BnV, the errors of rows that are not finite).

        The argmax of a program may be a suppressed token. A step of one token can then run again
        for its logits; after a longer one, the rings have no room to go back.
        """
        errors: dict[int, NonFiniteError] = {}
        is_short = not self._suppressed or max(len(part.tokens) for part in plan.parts) == 1
        if is_short and all(map(_takes_argmax, by_row.values())):
            (token_Bn, logit_Bn), errors = self._execute(plan._replace(greedy=True))
            good = tuple(part for part in plan.parts if part.row not in errors)
            wanted = [part.row - plan.first_row for part in good if part.wanted]
            if not self._suppressed.intersection(token_Bn[wanted, -1].tolist()):
                return token_Bn, logit_Bn, errors
            plan = plan._replace(parts=good)
        (logits_BnV,), later = self._execute(plan)
        return None, logits_BnV, errors | later

    def _execute(self, plan: StepPlan) -> tuple[tuple[np.ndarray, ...], dict[int, NonFiniteError]]:
        """Return the outputs of a plan on all ranks, and the error of each bad row."""
        outputs, error = self._executor.step(plan)
        return outputs, {} if error is None else {plan.first_row + row: error for row in error.rows}

    def _answers(self, sequence: Sequence) -> list[Sequence]:
        """Return a sequence, and at its prompt's end the other answers, which begin there."""
        if sequence.new_tokens:
            return [sequence]
        return [each for each in sequence.request.sequences if each.row is not None]

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """Return `_answers`, to whose rows the sequence's row is copied."""
        sequences = self._answers(sequence)
        for other in sequences:
            if other is not sequence:
                self._executor.copy(sequence.running_row, other.running_row)
                other.computed, other.mtp_computed = sequence.computed, [*sequence.mtp_computed]
        return sequences


def _row_tokens(part: ScheduledTokens) -> RowTokens:
    """Return a part of a step as its row and tokens, of which the last one's output is wanted.

    The outputs of drafts are wanted too.
    """
    sequence, tokens, drafts = part
    wanted = len(tokens) if sequence.wants_prompt_logprobs else int(part.is_last) + len(drafts)
    row, start = sequence.running_row, sequence.computed
    return RowTokens(row, start, [*tokens, *drafts], wanted, len(drafts))


def _takes_argmax(part: ScheduledTokens) -> bool:
    """Return whether nothing but the argmax of a part's logits is needed, if that."""
    sequence = part.sequence
    return not sequence.wants_prompt_logprobs and (sequence.is_argmax or not part.is_last)


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
