"""Access history: counts, last uses, and counts that are halved as a layer sees tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.expert_store.access_history import HALF_LIFE, AccessHistory

calls = st.lists(st.tuples(st.integers(0, 1), st.sets(st.integers(0, 3), min_size=1)), max_size=30)


@given(calls, st.integers(1, 100))
def test_it_is_what_a_list_of_calls_says(calls, tokens):
    history = AccessHistory(2, 4)
    for layer, experts in calls:
        history.add_call(layer * 4 + np.array(sorted(experts)), tokens)
    uses = [(layer, expert) for layer, experts in calls for expert in sorted(experts)]
    for key in range(8):
        pair = divmod(key, 4)
        last = max((i + 1 for i, use in enumerate(uses) if use == pair), default=0)
        assert (history.count_K[key], history.last_use_K[key]) == (uses.count(pair), last)


@given(st.lists(st.integers(0, 3 * HALF_LIFE), min_size=1, max_size=20))
def test_a_decayed_count_is_halved_each_half_life(gaps):
    """By a loop over all tokens of the layer, one after another."""
    history, expected, seen = AccessHistory(2, 2), 0, 0
    for gap in gaps:
        for _ in range(gap + 1):
            seen += 1
            if seen % HALF_LIFE == 0:
                expected //= 2
        expected += 1
        history.add_call(np.array([3]), gap + 1)
        history.add_call(np.array([0]), 5)  # of another layer, whose tokens are its own
        assert history.decayed_count(np.array([3]))[0] == expected


def test_a_count_that_is_halved_very_often_is_zero():
    history = AccessHistory(1, 2)
    history.add_call(np.array([1]), 1)
    history.add_call(np.array([0]), 100 * HALF_LIFE)
    assert history.decayed_count(np.array([1]))[0] == 0
