"""The drafter: MTP heads propose tokens, which the next step of the model verifies.

Head k reads the tokens in its window that it has not read, then the drafts of the heads before it,
and proposes the token after them. A draft is chosen as the token itself will be: by the request's
sampling parameters, and by the same noise where the request has a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from .draft_rule import DraftRule
from .output_processor import draw_of
from .sampler import NO_TOKEN, Draft, Draw, Sampler
from .worker import RowTokens, StepPlan

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache

    from .executor import Executor
    from .request import Constraint, Sequence

__all__ = ["Drafter"]

CATCH_UP = 4  # tokens that a head reads before its first draft: more bring no more


class Drafter:
    """Lets MTP heads draft for the sequences that generate.

    Parameters
    ----------
    executor
        What runs the heads on all ranks.
    sampler
        What chooses tokens from logits.
    cache
        The KV cache.
    draft_tokens
        "auto" if a rule decides how many heads draft; else all of them do in every step.
    clock
        A function that returns the time in seconds.

    Attributes
    ----------
    seconds
        Time in which heads drafted.
    """

    def __init__(
        self,
        executor: Executor,
        sampler: Sampler,
        cache: HybridCache,
        draft_tokens: int | str,
        clock: Callable[[], float],
    ) -> None:
        self._executor, self._sampler = executor, sampler
        self._rule = DraftRule(executor.mtp_heads, is_fixed=draft_tokens != "auto")
        self._clock = clock
        self._rows = cache.batch_size
        # So many tokens have their hidden states in the ring.
        self._reach = min(cache.window - 2, CATCH_UP)
        self.seconds = 0.0

    def __call__(self, sequences: SequenceOf[Sequence], *, is_timed: bool) -> None:
        """Give drafts to the sequences that generate and go on, after a step.

        They are as many as the rule says; fewer only where fewer tokens are left to generate.
        `is_timed` is whether the step was of such sequences alone.
        """
        if not self._rule.most:
            return
        start = self._clock()
        self._rule.begin(sequences, start, is_timed=is_timed)
        drafting = [each for each in sequences if self._wants_draft(each, 0)]
        constraints = {each: _copied(each.constraint) for each in drafting if each.constraint}
        drafting = [each for each in drafting if constraints.get(each, True)]
        for head in range(self._rule.most):
            drafting = [each for each in drafting if self._wants_draft(each, head)]
            if drafting:
                self._draft(head, drafting, constraints)
        for sequence in sequences:
            sequence.drafted = len(sequence.drafts)
        self._rule.end(max((len(each.drafts) for each in sequences), default=0))
        self.seconds += self._clock() - start

    def _wants_draft(self, sequence: Sequence, head: int) -> bool:
        """Return whether a head's draft is of use: those before have drafted, tokens are left."""
        if sequence.skips_drafts or sequence.finish_reason or not sequence.new_tokens:
            return False
        left = sequence.request.limit - len(sequence.new_tokens) - 1
        return len(sequence.drafts) == head < min(left, self._rule.drafts(sequence))

    def _draft(
        self, head: int, sequences: list[Sequence], constraints: dict[Sequence, Constraint | None]
    ) -> None:
        """Let one head read, and add its drafts."""
        sequences.sort(key=lambda sequence: sequence.running_row)
        parts = tuple(self._row_tokens(head, sequence) for sequence in sequences)
        is_greedy = not self._sampler.suppresses and all(each.is_argmax for each in sequences)
        plan = StepPlan(0, self._rows, parts, is_greedy)
        outputs = self._executor.draft(head, plan)
        for sequence in sequences:
            sequence.mtp_computed[head] = sequence.length
        rows = [sequence.running_row for sequence in sequences]
        is_good_R = np.isfinite(outputs[-1][rows, 0]).reshape(len(rows), -1).all(axis=1)
        sequences = [each for each, is_good in zip(sequences, is_good_R, strict=True) if is_good]
        output_R = outputs[0][rows, 0][is_good_R]
        if is_greedy:
            drafts = [Draft(int(token)) for token in output_R]
        else:
            drafts = self._choose(sequences, output_R, constraints)
        for sequence, draft in zip(sequences, drafts, strict=True):
            if draft.token != NO_TOKEN:
                sequence.drafts.append(draft)

    def _choose(
        self,
        sequences: SequenceOf[Sequence],
        logits_RV: np.ndarray,
        constraints: dict[Sequence, Constraint | None],
    ) -> list[Draft]:
        """Return drafts from logits; none where the constraint fails or ends the answer."""
        draws: dict[int, Draw] = {}
        for row, sequence in enumerate(sequences):
            with suppress(Exception):  # the step that verifies gets and reports it
                draw = _draw_of_draft(sequence, logits_RV.shape[1], constraints.get(sequence))
                draws |= {} if draw is None else {row: draw}
        drafts = [Draft(NO_TOKEN)] * len(sequences)
        if draws:
            chosen = self._sampler.draft(logits_RV[list(draws)], list(draws.values()))
            for row, draft in zip(draws, chosen, strict=True):
                drafts[row] = draft
        return drafts

    def _row_tokens(self, head: int, sequence: Sequence) -> RowTokens:
        """Return the tokens that a head is to read: those that it has not, and the drafts."""
        start = max(sequence.mtp_computed[head], sequence.length - self._reach)
        drafts = [draft.token for draft in sequence.drafts]
        tokens = [*sequence.latest(sequence.length - start), *drafts]
        return RowTokens(sequence.running_row, start, tokens, 1, len(drafts))


def _copied(constraint: Constraint) -> Constraint | None:
    """Return a copy, None if there can be none: then there are no drafts."""
    with suppress(Exception):
        return constraint.copy()
    return None


def _draw_of_draft(
    sequence: Sequence, vocab_size: int, constraint: Constraint | None
) -> Draw | None:
    """Return what the choice of a draft depends on; None if the last draft ends the answer."""
    drafted = [draft.token for draft in sequence.drafts]
    if constraint and drafted and constraint.accept(drafted[-1]) == "stop":
        return None
    return draw_of(sequence, vocab_size, constraint=constraint, drafted=drafted)
