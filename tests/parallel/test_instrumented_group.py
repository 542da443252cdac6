"""CountedGroup: the exchanges of another group, and what they cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.parallel import InstrumentedGroup, SoloGroup, ThreadGroup
from mimo_v2_flash.parallel.instrumented_group import CollectiveStats

EXCHANGES = ["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_exchange_is_that_of_the_group(exchange):
    group = ThreadGroup(4)
    x_PPN = np.random.default_rng(0).standard_normal((4, 4, 5))
    expected = group.run(lambda rank: getattr(group, exchange)(x_PPN[rank]))
    actual = group.run(lambda rank: getattr(InstrumentedGroup(group), exchange)(x_PPN[rank]))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("exchange", "parts"),
    [("all_to_all", 3), ("all_gather", 12), ("reduce_scatter", 3), ("all_reduce", 6)],
)
def test_what_leaves_a_rank_is_counted(exchange, parts):
    """Of x, four parts: all_to_all sends three, all_gather sends x three times."""
    group = ThreadGroup(4)

    def program(rank: int) -> InstrumentedGroup:
        counted = InstrumentedGroup(group)
        for _ in range(2):
            getattr(counted, exchange)(np.ones((4, 5), np.float32))
        return counted

    for counted in group.run(program):
        stats = counted.stats.pop(exchange)
        assert counted.stats == {}
        assert (stats.calls, stats.sent) == (2, 2 * parts * 5 * 4)
        assert stats.seconds > 0


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=3, max_size=3))
def test_rows_for_oneself_are_not_sent(count_PP):
    group = ThreadGroup(3)

    def program(rank: int):
        counted = InstrumentedGroup(group)
        rows = np.full((sum(count_PP[rank]), 2), rank, np.int32)
        got, count_P = counted.ragged_all_to_all(rows, count_PP[rank])
        return got[:, 0].tolist(), count_P.tolist(), counted.stats["ragged_all_to_all"]

    for rank, (got, count_P, stats) in enumerate(group.run(program)):
        received = [count_PP[sender][rank] for sender in range(3)]
        assert count_P == received
        assert got == [sender for sender in range(3) for _ in range(received[sender])]
        assert stats.calls == 1
        assert stats.sent == 8 * sum(n for to, n in enumerate(count_PP[rank]) if to != rank)


def test_a_split_is_counted_by_itself():
    group = ThreadGroup(4)

    def program(rank: int):
        counted = InstrumentedGroup(group)
        pair = counted.split([rank // 2 * 2, rank // 2 * 2 + 1])
        pair.all_gather(np.ones(3))
        return counted.stats, pair.stats["all_gather"].sent, pair.size, pair.rank

    assert group.run(program) == [({}, 24, 2, rank % 2) for rank in range(4)]


def test_alone_nothing_is_sent():
    counted = InstrumentedGroup(SoloGroup())
    for exchange in EXCHANGES:
        getattr(counted, exchange)(np.ones((1, 3)))
        assert counted.stats[exchange] == CollectiveStats(1, 0, counted.stats[exchange].seconds)
