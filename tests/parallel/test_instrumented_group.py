"""InstrumentedGroup: the collectives of the wrapped group, with calls and bytes counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.parallel import InstrumentedGroup, RankError, SoloGroup, ThreadGroup
from mimo_v2_flash.parallel.instrumented_group import CollectiveStats

COLLECTIVES = ["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_is_that_of_the_group(name):
    group = ThreadGroup(4)
    x_PPN = np.random.default_rng(0).standard_normal((4, 4, 5))
    expected = group.run(lambda rank: getattr(group, name)(x_PPN[rank]))
    actual = group.run(lambda rank: getattr(InstrumentedGroup(group), name)(x_PPN[rank]))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("all_to_all", 3), ("all_gather", 12), ("reduce_scatter", 3), ("all_reduce", 6)],
)
def test_bytes_that_leave_a_rank_are_counted(name, rows):
    """Of the four rows of x, all_to_all sends three; all_gather sends all four three times."""
    group = ThreadGroup(4)

    def program(rank: int) -> InstrumentedGroup:
        instrumented = InstrumentedGroup(group)
        for _ in range(2):
            getattr(instrumented, name)(np.ones((4, 5), np.float32))
        return instrumented

    for instrumented in group.run(program):
        stats = instrumented.stats.pop(name)
        assert instrumented.stats == {}
        assert (stats.calls, stats.sent) == (2, 2 * rows * 5 * 4)
        assert stats.seconds > 0


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=3, max_size=3))
def test_rows_that_a_rank_keeps_are_not_counted(count_PP):
    group = ThreadGroup(3)

    def program(rank: int):
        instrumented = InstrumentedGroup(group)
        x_ND = np.full((sum(count_PP[rank]), 2), rank, np.int32)
        received_ND, count_P = instrumented.ragged_all_to_all(x_ND, count_PP[rank])
        return received_ND[:, 0].tolist(), count_P.tolist(), instrumented.stats["ragged_all_to_all"]

    for rank, (senders, count_P, stats) in enumerate(group.run(program)):
        expected = [count_PP[sender][rank] for sender in range(3)]
        assert count_P == expected
        assert senders == [sender for sender in range(3) for _ in range(expected[sender])]
        assert stats.calls == 1
        assert stats.sent == 8 * sum(n for to, n in enumerate(count_PP[rank]) if to != rank)


@pytest.mark.parametrize("size", [1, 3])
def test_a_broadcast_is_sent_by_rank_0_to_each_other_rank(size):
    group = ThreadGroup(size)

    def program(rank: int):
        instrumented = InstrumentedGroup(group)
        received = instrumented.broadcast(b"seven b" if rank == 0 else b"")
        return received, instrumented.stats["broadcast"].calls, instrumented.stats["broadcast"].sent

    first, *others = group.run(program)
    assert first == (b"seven b", 1, 7 * (size - 1))
    assert others == [(b"seven b", 1, 0)] * (size - 1)


def test_an_abort_is_one_of_the_group():
    group = ThreadGroup(2)

    def program(rank: int):
        instrumented = InstrumentedGroup(group)
        if rank == 0:
            instrumented.abort(LookupError("no such expert"))
        instrumented.all_reduce(np.ones(1))

    with pytest.raises(RankError, match=r"^rank 0 raised LookupError: no such expert$"):
        group.run(program)


def test_a_split_has_statistics_of_its_own():
    group = ThreadGroup(4)

    def program(rank: int):
        instrumented = InstrumentedGroup(group)
        pair = instrumented.split([rank // 2 * 2, rank // 2 * 2 + 1])
        pair.all_gather(np.ones(3))
        return instrumented.stats, pair.stats["all_gather"].sent, pair.size, pair.rank

    assert group.run(program) == [({}, 24, 2, rank % 2) for rank in range(4)]


def test_alone_nothing_is_sent():
    instrumented = InstrumentedGroup(SoloGroup())
    for name in COLLECTIVES:
        getattr(instrumented, name)(np.ones((1, 3)))
        assert instrumented.stats[name] == CollectiveStats(1, 0, instrumented.stats[name].seconds)
