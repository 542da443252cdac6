"""The rule of how many tokens to draft: as many as bring most tokens per second.

A step that verifies drafts takes longer, the longer the more sequences there are, and how much
longer depends on the machine: so steps are timed. Which drafts hold depends on the text: so they
are counted. A sequence whose drafts are refused one after the other has none for a while.
"""

from collections import defaultdict, deque
from collections.abc import Iterable

import numpy as np

from .request import Sequence

__all__ = ["DraftRule"]

TIMED = 2  # steps of a depth that are timed before others are tried
KEPT = 9  # of the latest times, of which the median counts
RETRY = 128  # steps after which a depth that is not in use is timed again
DECAY = 0.98  # of what a draft counts, with each later one of its head
REFUSALS = 3  # one after the other, after which a sequence pauses
LONGEST_PAUSE = 32  # steps


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
        self._seconds: dict[tuple[int, int], deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._since: dict[tuple[int, int], int] = defaultdict(int)  # steps since it was timed
        self._held, self._tried = np.ones(most), np.full(most, 2.0)  # of each head: a prior of 1/2
        self._depth, self._kind = most, (0, most)
        self._start: float | None = None

    def begin(self, sequences: Iterable[Sequence], now: float, *, is_timed: bool = True) -> None:
        """Take note of a step that ended, and decide how many drafts the next one has at most.

        `sequences` are those that generate. A step that also computed prompts is not timed.
        """
        generating = [each for each in sequences if each.new_tokens]
        for sequence in generating:
            self._count(sequence)
        if self._start is not None and is_timed and self._kind[0]:
            self._seconds[self._kind].append(now - self._start)
            self._since[self._kind] = 0
        self._start = now
        size = len(generating).bit_length()
        self._depth = self.most if self._is_fixed else self._best(size)
        self._kind = size, self._depth

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
            pause = 1 << max(0, sequence.refusals - REFUSALS)
            sequence.draft_pause = min(pause, LONGEST_PAUSE) * (sequence.refusals >= REFUSALS)
        else:
            sequence.draft_pause = max(0, sequence.draft_pause - 1)

    def _best(self, size: int) -> int:
        """Return the depth to take for a number of sequences of `size` bits."""
        ends = [(size, 0), (size, self.most)]
        for kind in ends:
            if len(self._seconds[kind]) < TIMED:
                return kind[1]
        for kind in ends:
            self._since[kind] += 1
            if self._since[kind] > RETRY:
                self._since[kind] = 0
                return kind[1]
        rates = [self.tokens(depth) / self._time(size, depth) for depth in range(self.most + 1)]
        return int(np.argmax(rates))

    def _time(self, size: int, depth: int) -> float:
        """Return the seconds of a step of some depth: measured, or between what was measured."""
        measured = self._seconds[size, depth]
        if len(measured) >= TIMED:
            return float(np.median(measured))
        none, most = (float(np.median(self._seconds[size, end])) for end in (0, self.most))
        return none + (most - none) * depth / self.most
