"""The rule of how many tokens to draft: as many as bring most tokens per second.

Which drafts hold depends on the text, so they are counted. What a step with drafts costs depends on
the machine and on the number of sequences, so steps are timed, each beside those close to it: load
slows both. Drafts that do not pay lose time while they are tried: in all a hundredth of the steps
so far, and a step or two at the start. A sequence whose drafts are refused one after the other has
none for a while.
"""

from collections import deque
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

import numpy as np

from .request import Sequence

__all__ = ["DraftRule"]

CLOSE = 12  # steps: so close to one another, they are compared
ENOUGH = 3  # steps of a depth with which others are compared, and of a trial
TRIED_DRAFTS = 6  # of all sequences, in a trial
KEPT = 5  # comparisons, of which the second largest counts: a wrong one is not to let drafts lose
GAIN, TRIED_GAIN = 1.05, 1.08  # in tokens per second, for which drafts are made, and tried
RETRY, LONGEST_RETRY = 8, 256  # steps after which the neighbours of a depth are tried again
CHECK = 2  # steps after which drafts are compared with none again: the first time they may mislead
SHARE = 0.01  # of the steps so far that trials may lose
GRANT, GRANT_SHARE = 1.8, 0.015  # steps that they may lose at the start, and of those to come
MOST_CREDIT = 32.0  # steps
LOSSES = (0.0, 0.5, 1.0, 1.5)  # steps that a first trial loses, by sequences in bits: up to 3
LEAST_LOSS = 0.5  # steps that a later one loses at least
UNTIMED = 0.75  # of what the draft before it costs is what a draft costs until it is timed
PRIOR = 1.0  # drafts that a head has had at first
DECAY = 0.98  # of what a draft counts, with each later step that has drafts of its head
UNLIKELY = 0.01  # how likely a sequence is refused so often in a row that it pauses, were it usual
LONGEST_PAUSE = 32  # steps
SHORTEST = 1e-9  # seconds: a clock may be coarser than a step


class StepCosts:
    """What steps with drafts cost, in steps without, at about one number of sequences.

    Parameters
    ----------
    most
        The most drafts of a sequence.
    prior
        The costs at another number of sequences, which are taken until there are others.

    Attributes
    ----------
    best
        How many drafts bring most tokens per second.
    loss
        Steps that the last trial lost.
    since, patience
        Of each depth, steps since it was tried, and after how many it is tried again.
    """

    def __init__(self, most: int, prior: "StepCosts | None" = None) -> None:
        self._costs: list[deque[float]] = [deque(maxlen=KEPT) for _ in range(most + 1)]
        self._latest: deque[tuple[int, int, float]] = deque(maxlen=CLOSE)
        self.loss = LEAST_LOSS
        self._begin(0)
        if prior:
            self._costs = deepcopy(prior._costs)
            self._begin(prior.best)

    def _begin(self, best: int) -> None:
        """Let another depth be the best."""
        others = len(self._costs) - 1
        self.best = best
        self.since, self.patience = [0] * (1 + others), [CHECK, *[RETRY] * others]

    def is_known(self, depth: int) -> bool:
        """Return whether steps of a depth have been compared with others."""
        return not depth or bool(self._costs[depth])

    def __getitem__(self, depth: int) -> float:
        """Return the cost of a depth; of one that is not known, the least that is likely."""
        if depth and self.is_known(depth):
            costs = sorted(self._costs[depth])
            return costs[(len(costs) + 1) // 2 - (len(costs) == 1)]
        if depth < 2:
            return 1.0
        return self[depth - 1] + UNTIMED * (self[depth - 1] - self[depth - 2])

    def close(self, step: int) -> dict[int, list[float]]:
        """Return the times of steps that are close to a step, by depth."""
        times: dict[int, list[float]] = {}
        for other, depth, seconds in self._latest:
            if step - other <= CLOSE:
                times.setdefault(depth, []).append(seconds)
        return times

    def add(self, step: int, depth: int, seconds: float) -> None:
        """Compare a step, and those of its depth just before it, with others close to it."""
        self._latest.append((step, depth, seconds))
        before = list(takewhile(lambda latest: latest[1] == depth, reversed(self._latest)))
        typical = {
            other: median(times)
            for other, times in self.close(step).items()
            if other != depth and self.is_known(other) and len(times) >= ENOUGH
        }
        latest, compared = median(seconds for *_, seconds in before), {}
        if not depth:
            compared = {other: seconds / latest for other, seconds in typical.items()}
        elif typical:
            other = min(typical)
            compared[depth] = self[other] * latest / typical[other]
        for other, cost in compared.items():
            if len(before) > 1 and self._costs[other]:
                self._costs[other].pop()  # it is the same comparison, of one step less
            self._costs[other].append(cost)

    def settle(self, rates: list[float]) -> None:
        """Take the depth of the highest rate, or none where that gains too little."""
        known = [depth for depth in range(len(rates)) if self.is_known(depth)]
        best = max(known, key=rates.__getitem__)
        if rates[best] < rates[0] * (1 if self.best else GAIN):
            best = 0
        if best != self.best:
            self._begin(best)

    def due(self, rates: list[float], credit: float) -> int | None:
        """Return a depth that is to be tried, if trials may lose so many steps."""
        if credit < (0 if self.best else self.loss):
            return None
        depths = range(1, len(rates))
        unknown = next((depth for depth in depths if not self.is_known(depth)), 0)
        if unknown and rates[unknown] > TRIED_GAIN * rates[self.best] and credit >= self.loss:
            return unknown
        neighbours = {0, self.best - 1, self.best + 1} & set(range(len(rates))) - {self.best}
        return next(filter(self._is_due, sorted(neighbours)), None)

    def _is_due(self, depth: int) -> bool:
        """Count a step in which a depth that is known is not tried; return whether it is to be."""
        self.since[depth] += 1
        if self.since[depth] <= self.patience[depth] or not self.is_known(depth):
            return False
        self.since[depth] = 0
        self.patience[depth] = min(2 * self.patience[depth], LONGEST_RETRY)
        if not self.best:  # what is known of it may be old
            self._costs[depth].clear()
        return True


@dataclass
class Trial:
    """Steps of a depth that may not be the best.

    Attributes
    ----------
    size, depth
        The number of sequences, in bits, and of drafts.
    steps
        How many steps are left of it.
    credit
        How many steps trials could lose before it.
    """

    size: int
    depth: int
    steps: int
    credit: float


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
        self._costs: dict[int, StepCosts] = {}  # by the number of sequences, in bits
        self._held, self._tried = np.zeros(most), np.zeros(most)  # drafts of each head
        self._size, self._depth, self._step = 0, most, 0  # of the step that runs, and its number
        self._start = float("nan")
        self._credit = float("nan")  # steps that trials may lose
        self._trial: Trial | None = None

    def begin(self, sequences: Iterable[Sequence], now: float, *, is_timed: bool = True) -> None:
        """Take note of a step that ended, and decide how many drafts the next one has at most.

        `sequences` are those that generate. A step that also computed prompts is not timed.

        Parameters
        ----------
        sequences : iterable of Sequence
            Sequences that generate.
        now : float
            The time in seconds.
        is_timed : bool
            Whether the step counts: one that also computed prompts does not.
        """
        if self._is_fixed:
            return
        generating = [each for each in sequences if each.new_tokens]
        self._count(generating)
        if is_timed and self._size and self._start == self._start:
            tokens = 1 + sum(each.accepted for each in generating) / max(1, len(generating))
            self._add(max(now - self._start, SHORTEST), tokens)
        left = [
            each.request.limit - len(each.new_tokens)
            for each in generating
            if not each.finish_reason
        ]
        if self._credit != self._credit and left:
            self._credit = min(GRANT, GRANT_SHARE * max(left))
        self._size, self._start = len(left).bit_length(), now
        self._step += 1
        self._depth = self._choose() if left else 0

    def end(self, depth: int) -> None:
        """Take note of how many drafts the next step has: fewer where sequences pause."""
        self._depth = depth

    def drafts(self, sequence: Sequence) -> int:
        """Return the most drafts of a sequence in the next step."""
        if self._is_fixed:
            return self.most
        return 0 if sequence.draft_pause else self._depth

    def tokens(self, depth: int) -> float:
        """Return how many tokens a step of so many drafts is expected to bring."""
        tokens, held = 1.0, 1.0
        for share in self._shares()[:depth]:
            held *= share
            tokens += held
        return tokens

    def _shares(self) -> list[float]:
        """Return how many of each head's drafts hold: as many as of the head before, at first."""
        shares = [0.5]
        for held, tried in zip(self._held, self._tried, strict=True):
            shares.append((held + PRIOR * shares[-1]) / (tried + PRIOR))
        return shares[1:]

    def _count(self, sequences: Iterable[Sequence]) -> None:
        """Count which drafts held in the step that ended."""
        counts = [(each.drafted, each.accepted) for each in sequences]
        for head in range(self.most):
            held = [
                accepted > head for drafted, accepted in counts if min(drafted, accepted + 1) > head
            ]
            if held:
                self._held[head] = DECAY * self._held[head] + sum(held)
                self._tried[head] = DECAY * self._tried[head] + len(held)
        for sequence in sequences:
            self._pause(sequence)

    def _pause(self, sequence: Sequence) -> None:
        """Let a sequence have no drafts for some steps if all are refused, as is not usual."""
        if sequence.accepted:
            sequence.refusals = 0
        elif sequence.drafted:
            sequence.refusals += 1
            refused = float(np.clip(1 - self._shares()[0], 0.05, 0.95))
            excess = sequence.refusals - int(np.ceil(np.log(UNLIKELY) / np.log(refused)))
            sequence.draft_pause = min(1 << excess, LONGEST_PAUSE) if excess >= 0 else 0
        else:
            sequence.draft_pause = max(0, sequence.draft_pause - 1)

    def _add(self, seconds: float, tokens: float) -> None:
        """Take note of the time of the step that ended, and of its tokens of each sequence."""
        costs, depth = self._costs_of(self._size), self._depth
        costs.add(self._step, depth, seconds)
        gain = tokens - costs[depth] if depth else 0.0
        self._credit = min(self._credit + SHARE * tokens + gain, MOST_CREDIT)
        if self._trial and self._trial.depth == depth:
            self._trial.steps -= 1

    def _choose(self) -> int:
        """Return how many drafts the next step has at most."""
        costs, trial = self._costs_of(self._size), self._trial
        rates = [self.tokens(depth) / costs[depth] for depth in range(self.most + 1)]
        if trial and trial.size == self._size:
            if trial.steps and (self._credit > 0 or rates[trial.depth] >= rates[costs.best]):
                return trial.depth
            costs.settle(rates)
            if not costs.best:
                costs.loss = max(LEAST_LOSS, trial.credit - self._credit)
        self._trial = None
        costs.settle(rates)
        is_compared = costs.best or len(costs.close(self._step).get(0, ())) >= ENOUGH
        depth = costs.due(rates, self._credit) if is_compared else None
        if depth is None:
            return costs.best
        steps = max(ENOUGH, TRIED_DRAFTS >> (self._size - 1))
        if costs.best and costs.is_known(depth):
            steps = 1
        self._trial = Trial(self._size, depth, steps, self._credit)
        return depth

    def _costs_of(self, size: int) -> StepCosts:
        """Return the costs at a number of sequences; of a new one, those of more as a prior.

        Where drafts pay, they do so with fewer sequences too.
        """
        if size not in self._costs:
            more = [each for each in self._costs if each > size and self._costs[each].best]
            fewer = [costs.loss for each, costs in self._costs.items() if each < size]
            self._costs[size] = StepCosts(self.most, self._costs[min(more)] if more else None)
            self._costs[size].loss = max(LOSSES[min(size, 3)], *fewer, 0.0)
        return self._costs[size]
