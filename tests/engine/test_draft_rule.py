"""draft_rule: as many drafts as bring most tokens per second, on any machine and for any text."""

import numpy as np
import pytest

from mimo_v2_flash.engine.draft_rule import LONGEST_PAUSE, RETRY, DraftRule
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams


def sequences_of(count: int) -> list[Sequence]:
    request = Request(0, [1], SamplingParams(), frozenset(), 9, 0)
    return [Sequence(request, index, new_tokens=[2]) for index in range(count)]


def simulate(rule: DraftRule, seconds, holds, *, count=1, steps=1000):
    """Return tokens per second, and the drafts of each step, where `holds(random)` is drawn."""
    random, sequences = np.random.default_rng(0), sequences_of(count)
    now, tokens, depths = 0.0, 0, []
    rule.interrupt()
    rule.begin(sequences, now)
    for _ in range(steps):
        depths.append([rule.drafts(each) for each in sequences])
        for sequence, depth in zip(sequences, depths[-1], strict=True):
            held = 0
            while held < depth and holds(random, held):
                held += 1
            sequence.drafted, sequence.accepted = depth, held
            tokens += 1 + held
        now += seconds(max(depths[-1]), random)
        rule.begin(sequences, now)
    return tokens / now, np.array(depths)


def rate(depth: int, seconds, holds, **options) -> float:
    """Return tokens per second with always so many drafts."""
    return simulate(DraftRule(depth, is_fixed=True), seconds, holds, **options)[0]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("price", "count"), [(0.02, 3), (0.2, 1), (0.45, 3), (1.5, 1)])
def test_it_is_never_much_slower_than_none_and_near_the_best(share, price, count):
    def seconds(depth, random):
        return (1 + price * depth) * random.uniform(0.9, 1.4)

    def holds(random, head):
        return random.random() < share

    actual, _ = simulate(DraftRule(3), seconds, holds, count=count)
    each = [rate(depth, seconds, holds, count=count) for depth in range(4)]
    assert actual > 0.97 * each[0]
    assert actual > 0.9 * max(each)


def test_a_fixed_number_is_always_that():
    rule, sequence = DraftRule(2, is_fixed=True), sequences_of(1)
    for now in range(200):
        sequence[0].drafted, sequence[0].accepted = 2, 0
        rule.begin(sequence, now * 10.0)
        assert rule.drafts(sequence[0]) == 2


def test_a_sequence_whose_drafts_are_refused_pauses_longer_and_longer():
    rule, (good, bad) = DraftRule(3), sequences_of(2)
    drafted = []
    for step in range(400):
        rule.begin([good, bad], step * 1.0)
        for each, held in ((good, 3), (bad, 0)):
            each.drafted = rule.drafts(each)
            each.accepted = min(held, each.drafted)
        drafted.append((good.drafted, bad.drafted))
    good_T, bad_T = np.array(drafted).T
    assert np.mean(good_T[20:]) > 2.8
    gaps = np.diff(np.flatnonzero(bad_T[20:]))
    assert gaps.max() == LONGEST_PAUSE + 1
    assert len(gaps) < 30


def test_what_has_become_cheap_is_tried_again():
    price = [2.0]

    def seconds(depth, random):
        return 1 + price[0] * depth

    rule = DraftRule(3)
    _, depth_TB = simulate(rule, seconds, lambda *_: True, steps=100)
    assert np.mean(depth_TB[16:] > 0) < 0.05
    price[0] = 0.1
    _, depth_TB = simulate(rule, seconds, lambda *_: True, steps=50 * RETRY)
    assert np.mean(depth_TB[-RETRY:]) > 2.8


def test_a_step_beside_which_something_else_is_computed_is_not_timed():
    rule, sequences = DraftRule(3), sequences_of(1)
    for step in range(6):
        rule.begin(sequences, step * 1.0)
    before = {kind: list(times) for kind, times in rule._seconds.items()}
    rule.begin(sequences, 1000.0, is_timed=False)
    rule.interrupt()
    rule.begin(sequences, 9000.0)
    assert {kind: list(times) for kind, times in rule._seconds.items()} == before
