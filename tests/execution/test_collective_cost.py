"""Seconds of collectives: published latency and bandwidth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.execution.collective_cost import collective_seconds

sizes = st.lists(st.integers(0, 10**9), max_size=9)


def test_the_fastest_collective_and_a_megabyte():
    assert 1e6 * collective_seconds(0) == pytest.approx(17.5)
    assert 1e6 * collective_seconds(2_060_000) == pytest.approx(38.1)
    assert collective_seconds() == 0


@given(sizes, sizes)
def test_collectives_follow_each_other(some, others):
    both = collective_seconds(*some, *others)
    assert both == pytest.approx(collective_seconds(*some) + collective_seconds(*others))
