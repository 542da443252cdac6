"""draft_rule: never much slower than no drafts and near the best number, by a pretended clock."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from mimo_v2_flash.engine.draft_rule import LONGEST_PAUSE, DraftRule
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams

CATCH_UP = 4  # tokens that a head has not read, for which it takes longer
FOREVER = 10**6


def sequences_of(count: int, limit: int = FOREVER) -> list[Sequence]:
    request = Request(0, [1], SamplingParams(), frozenset(), limit, 0)
    return [Sequence(request, index, new_tokens=[2]) for index in range(count)]


@dataclass
class Machine:
    """A machine and a text: what a step takes on its clock, and which drafts hold.

    Attributes
    ----------
    price
        What each draft adds to a step, in steps without drafts.
    share
        How likely a draft holds.
    reading
        What a head adds that has not read the tokens before.
    first
        What the first draft adds beyond its price.
    noise
        Deviation of the logarithm of the time that the clock shows of a step.
    load
        By how much other programs slow a step while they run, in bursts of 20 to 200 steps.
    now, work
        The time on the clock; and the time that steps would have taken without noise and load.
    """

    price: float
    share: float
    reading: float = 0.2
    first: float = 0.0
    noise: float = 0.0
    load: float = 1.0
    seed: int = 0
    now: float = field(default=0.0, init=False)
    work: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self._bursts = np.cumsum(self.random.uniform(20, 200, 500))

    def step(self, depth: int, late_heads: int = 0) -> None:
        """Run a step."""
        seconds = 1 + self.price * depth + self.first * bool(depth) + self.reading * late_heads
        is_loaded = np.searchsorted(self._bursts, self.now) % 2
        noise = np.exp(self.noise * self.random.normal())
        self.work += seconds
        self.now += seconds * noise * (self.load if is_loaded else 1)

    def rate(self, depth: int) -> float:
        """Return the tokens of a sequence per second of work, with always so many drafts."""
        return self.tokens(depth) / (1 + self.price * depth + self.first * bool(depth))

    def tokens(self, depth: int) -> float:
        """Return the expected tokens of a step."""
        return float(np.sum(self.share ** np.arange(depth + 1)))

    def accepted(self, drafted: int) -> int:
        """Return how many drafts of a sequence hold."""
        return int(np.sum(np.cumprod(self.random.random(drafted) < self.share)))


def run(
    rule: DraftRule, machine: Machine, *, count: int = 1, steps: int = 700, limit: int = FOREVER
) -> tuple[float, np.ndarray]:
    """Return expected tokens of a sequence per second of work, and the drafts of each step."""
    active, depths = sequences_of(count, limit), []
    behind_K, tokens = np.full(rule.most, CATCH_UP), 0.0
    for _ in range(steps):
        rule.begin(active, machine.now)
        active = [each for each in active if not each.finish_reason]
        if not active:
            break
        drafts = {each: rule.drafts(each) for each in active}
        depth = max(drafts.values())
        late = int(np.sum(behind_K[:depth] >= CATCH_UP))
        behind_K += 1
        behind_K[:depth] = 0
        rule.end(depth)
        machine.step(depth, late)
        depths.append(depth)
        for each in active:
            each.drafted, each.accepted = drafts[each], machine.accepted(drafts[each])
            each.new_tokens += [2] * (1 + each.accepted)
            tokens += machine.tokens(drafts[each]) / count
            each.finish_reason = "length" if len(each.new_tokens) > limit else None
    return tokens / machine.work, np.array(depths)


@pytest.mark.parametrize("load", [1.0, 2.5])
@pytest.mark.parametrize("share", [0.0, 0.6, 0.85])
@pytest.mark.parametrize(("price", "count"), [(0.05, 1), (0.3, 8), (0.6, 1), (1.5, 4)])
def test_it_is_never_much_slower_than_none_and_near_the_best(share, price, count, load):
    machine = Machine(price=price, share=share, noise=0.15, load=load)
    rate, _ = run(DraftRule(3), machine, count=count)
    assert rate > 0.97 * machine.rate(0)
    assert rate > 0.88 * max(map(machine.rate, range(4)))


@pytest.mark.parametrize("limit", [60, 120])
@pytest.mark.parametrize(("price", "reading"), [(1.0, 0.2), (1.5, 0.5), (3.0, 0.2)])
def test_short_answers_lose_little_where_drafts_do_not_pay(price, reading, limit):
    machine = Machine(price=price, share=0.5, reading=reading, noise=0.05)
    rate, _ = run(DraftRule(3), machine, count=8, steps=limit, limit=limit)
    assert rate > 0.97 * machine.rate(0)


def test_short_answers_gain_where_drafts_pay():
    machine = Machine(price=0.15, share=0.6, noise=0.1)
    rate, _ = run(DraftRule(3), machine, limit=120)
    assert rate > 1.25 * machine.rate(0)


def test_a_first_draft_that_costs_much_does_not_hide_that_more_pay():
    machine = Machine(price=0.05, share=0.85, first=0.7)
    rate, _ = run(DraftRule(3), machine)
    assert machine.rate(3) > 1.5 * machine.rate(1)
    assert rate > 1.2 * machine.rate(1)


def test_a_fixed_number_is_always_that():
    _, depth_T = run(DraftRule(2, is_fixed=True), Machine(price=9.0, share=0.0), steps=100)
    assert set(depth_T.tolist()) == {2}


def test_a_sequence_whose_drafts_are_refused_pauses_longer_and_longer():
    rule, (good, bad) = DraftRule(3), sequences_of(2)
    drafted = []
    for step in range(400):
        rule.begin([good, bad], step * 1.0)
        for each, held in ((good, 3), (bad, 0)):
            each.drafted = rule.drafts(each)
            each.accepted = min(held, each.drafted)
        drafted.append((good.drafted, bad.drafted))
        rule.end(max(drafted[-1]))
    good_T, bad_T = np.array(drafted).T
    assert np.mean(good_T[40:]) > 2.5
    gaps = np.diff(np.flatnonzero(bad_T[40:]))
    assert gaps.max() >= LONGEST_PAUSE + 1
    assert len(gaps) < 40


def test_what_has_become_cheap_is_tried_again():
    rule, machine = DraftRule(3), Machine(price=2.0, share=1.0)
    machine.share = 0.3
    _, depth_T = run(rule, machine, steps=300)
    assert np.mean(depth_T > 0) < 0.05
    machine.price, machine.share = 0.1, 1.0
    _, depth_T = run(rule, machine, steps=2000)
    assert np.mean(depth_T[-500:]) > 2.7


def test_more_sequences_are_tried_anew_and_fewer_as_more_were():
    rule, machine = DraftRule(3), Machine(price=0.1, share=0.9)
    run(rule, machine, count=8, steps=100)
    _, fewer_T = run(rule, machine, count=2, steps=20)
    assert np.mean(fewer_T) > 2
    _, more_T = run(rule, machine, count=32, steps=20)
    assert np.all(more_T[:3] == 0)


def test_a_step_beside_which_something_else_is_computed_is_not_timed():
    rule, sequences = DraftRule(3), sequences_of(1)
    for step in range(50):
        rule.begin(sequences, step * 1000.0, is_timed=False)
        assert rule.drafts(sequences[0]) == 0
