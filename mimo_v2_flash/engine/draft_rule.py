"""The rule of how many tokens to draft: as many as bring most tokens per second.

A step that verifies drafts takes longer, the longer the more sequences there are, and how much
longer depends on the machine: so steps are timed. Which drafts hold depends on the text: so they
are counted. A sequence whose drafts are refused one after the other has none for a while.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .request import Sequence

__all__ = ["DraftRule"]

TIMED = 6  # steps of a depth that are timed before it is judged
KEPT = 9  # of the latest times, of which the median counts
RETRY, LONGEST_RETRY = 64, 512  # steps after which the neighbours of a depth are timed again
GAIN = 1.03  # in tokens per second, for which drafts are worth their risk
SHORTEST = 1e-9  # seconds: a clock may be coarser than a step
DECAY = 0.98  # of what a draft counts, with each later one of its head
UNLIKELY = 0.01  # how likely a sequence is refused so often in a row that it pauses, were it usual
LONGEST_PAUSE = 32  # steps


class StepKind(NamedTuple):
    """What the time of a step depends on: how many sequences, in bits, and how many drafts."""

    size: int
    depth: int


class DraftRule:
    """What decides how many drafts each sequence has.

    Parameters
    ----------
    most
        The most drafts of a sequence.
    is_fixed
        Whether there are always so many.
    """

    def __init__(self, most: int, *, is_fixed: bool = False) -> None:
        self.most, self._is_fixed = most, is_fixed
        self._seconds: dict[StepKind, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._since: dict[StepKind, int] = defaultdict(int)  # steps since it was tried
        self._patience: dict[StepKind, int] = defaultdict(lambda: RETRY)
        self._held, self._tried = np.ones(most), np.full(most, 2.0)  # of each head: a prior of 1/2
        self._depth, self._kind = most, StepKind(0, most)
        self._start: float | None = None

    def begin(self, sequences: Iterable[Sequence], now: float, *, is_timed: bool = True) -> None:
        """Take note of a step that ended, and decide how many drafts the next one has at most.

        `sequences` are those that generate. A step that also computed prompts is not timed.
        """
        generating = [each for each in sequences if each.new_tokens]
        for sequence in generating:
            self._count(sequence)
        if self._start is not None and is_timed and self._kind.size:
            self._seconds[self._kind].append(now - self._start)
        self._start = now
        size = sum(not each.finish_reason for each in generating).bit_length()
        self._depth = self.most if self._is_fixed else self._best(size)
        self._kind = StepKind(size, self._depth)

    def end(self, depth: int) -> None:
        """Take note of how many drafts the next step has: fewer where sequences pause."""
        self._kind = self._kind._replace(depth=depth)

    def interrupt(self) -> None:
        """Take no note of how long the next step takes: something beside it is computed."""
        self._start = None

    def drafts(self, sequence: Sequence) -> int:
        """Return the most drafts of a sequence in the next step."""
        if self._is_fixed:
            return self.most
        if sequence.draft_pause:
            return 0
        return self._depth

    def tokens(self, depth: int) -> float:
        """Return how many tokens a step of so many drafts is expected to bring."""
        return 1.0 + float(np.sum(np.cumprod(self._held / self._tried)[:depth]))

    def _count(self, sequence: Sequence) -> None:
        """Count which drafts of a sequence held in the step that ended."""
        drafted, accepted = sequence.drafted, sequence.accepted
        for head in range(min(drafted, accepted + 1)):
            self._held[head] = self._held[head] * DECAY + (head < accepted)
            self._tried[head] = self._tried[head] * DECAY + 1
        if accepted:
            sequence.refusals = 0
        elif drafted:
            sequence.refusals += 1
            excess = sequence.refusals - self._unlikely_refusals()
            sequence.draft_pause = min(1 << excess, LONGEST_PAUSE) if excess >= 0 else 0
        else:
            sequence.draft_pause = max(0, sequence.draft_pause - 1)

    def _unlikely_refusals(self) -> int:
        """Return how many refusals in a row say that a sequence is not like the others."""
        refused = np.clip(1 - self._held[0] / self._tried[0], 0.05, 0.95)
        return int(np.ceil(np.log(UNLIKELY) / np.log(refused)))

    def _best(self, size: int) -> int:
        """Return the depth to take for a number of sequences of `size` bits."""
        for depth in range(min(2, self.most + 1)):
            if len(self._seconds[StepKind(size, depth)]) < TIMED:
                return depth
        rates = [self.tokens(depth) / self._time(size, depth) for depth in range(self.most + 1)]
        best = int(np.argmax(rates))
        best *= rates[best] > GAIN * rates[0]
        for depth in (best - 1, best + 1):
            kind = StepKind(size, depth)
            self._since[kind] += 1
            if 0 <= depth <= self.most and self._since[kind] > self._patience[kind]:
                self._since[kind] = 0
                self._patience[kind] = min(2 * self._patience[kind], LONGEST_RETRY)
                return depth
        self._patience[StepKind(size, best)] = RETRY
        return best

    def _time(self, size: int, depth: int) -> float:
        """Return the seconds of a step of some depth: measured, or as the two before say."""
        measured = self._seconds[StepKind(size, depth)]
        if len(measured) >= TIMED or depth < 2:
            return max(float(np.median(measured)), SHORTEST)
        one, two = self._time(size, depth - 1), self._time(size, depth - 2)
        return max(2 * one - two, SHORTEST)
