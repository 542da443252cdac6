"""ThreadGroup: ranks exchange what is theirs, and a rank that fails takes nobody's time."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.parallel import ThreadGroup
from tests.support.kinds import host_kinds

sizes = pytest.mark.parametrize("P", [1, 2, 3, 8])


def counts(P: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 3), min_size=P, max_size=P)


def random_of_rank(*shape: int) -> np.ndarray:
    """Return other numbers for each rank: the first axis is the rank."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def exchanged(P: int, name: str, x_of_rank, on=lambda function: function) -> np.ndarray:
    """Return what every rank gets of exchange `name`, in rank order."""
    group = ThreadGroup(P)
    return np.stack(group.run(lambda rank: on(getattr(group, name))(x_of_rank[rank])))


@host_kinds
@sizes
def test_all_to_all_transposes(on, P):
    sent = random_of_rank(P, P, 2, 3)  # by rank, to rank
    np.testing.assert_array_equal(exchanged(P, "all_to_all", sent, on), np.swapaxes(sent, 0, 1))


@host_kinds
@sizes
def test_all_gather_gives_everything_to_everyone(on, P):
    own = random_of_rank(P, 2, 3)
    np.testing.assert_array_equal(exchanged(P, "all_gather", own, on), np.stack([own] * P))


@host_kinds
@sizes
def test_reduce_scatter_gives_everyone_the_sum_of_its_rows(on, P):
    sent = random_of_rank(P, P, 2, 3)
    expected = np.sum(sent, axis=0)
    np.testing.assert_allclose(exchanged(P, "reduce_scatter", sent, on), expected, rtol=1e-5)


@host_kinds
@sizes
def test_all_sum_gives_everyone_the_sum(on, P):
    own = random_of_rank(P, 2, 3)
    actual = exchanged(P, "all_reduce", own, on)
    np.testing.assert_allclose(actual[0], np.sum(own, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(actual, np.stack([actual[0]] * P))  # to the bit


@sizes
@given(data=st.data())
def test_ragged_rows_arrive_in_rank_order(P, data):
    count_PP = np.array(data.draw(st.lists(counts(P), min_size=P, max_size=P)))  # by rank, to rank
    rows_of = [np.repeat(10 * rank + np.arange(P), count_PP[rank]) for rank in range(P)]
    group = ThreadGroup(P)
    got = group.run(lambda rank: group.ragged_all_to_all(rows_of[rank][:, None], count_PP[rank]))
    for rank, (x_ND, count_P) in enumerate(got):
        np.testing.assert_array_equal(count_P, count_PP[:, rank])
        np.testing.assert_array_equal(x_ND[:, 0], np.repeat(10 * np.arange(P) + rank, count_P))


@pytest.mark.parametrize("count_P", [[3], [1, 1], [4, -1], [1, 1, 1]])
def test_counts_that_do_not_fit_are_refused(count_P):
    group = ThreadGroup(2)
    with pytest.raises(ValueError, match="expected 2 counts that sum to 3 rows, got"):
        group.run(lambda _: group.ragged_all_to_all(np.ones((3, 1)), count_P))


@sizes
def test_ranks_are_told_who_they_are_and_answer_in_order(P):
    assert ThreadGroup(P).run(lambda rank: rank * 10) == [rank * 10 for rank in range(P)]
    group = ThreadGroup(P)
    assert group.run(lambda _: group.rank) == [*range(P)]


def test_exchanges_follow_each_other_without_mixing():
    group = ThreadGroup(4)

    def program(rank: int) -> float:
        total = np.full(1, rank, np.float32)
        for _ in range(50):
            total = group.all_reduce(total) / np.float32(4)
            total = group.all_gather(total + np.float32(rank))[rank] - np.float32(rank)
        return total.item()

    assert group.run(program) == [1.5] * 4


def test_what_was_exchanged_may_be_overwritten_at_once():
    group = ThreadGroup(3)

    def program(rank: int) -> bool:
        own, right = np.empty((3, 500), np.float32), True
        expected = np.repeat(np.arange(3, dtype=np.float32), 500).reshape(3, 500)
        for _ in range(100):
            for exchange, brought in ((group.all_to_all, own), (group.all_gather, own[0])):
                own[:] = rank
                got = exchange(brought)
                own[:] = 99
                right = right and np.array_equal(got, expected)
        return right

    assert all(group.run(program))


@pytest.mark.parametrize("failing", [0, 2])
def test_a_failing_rank_releases_the_others_and_is_named(failing):
    group = ThreadGroup(3)

    def program(rank: int) -> None:
        group.all_reduce(np.ones(1))
        if rank == failing:
            raise LookupError(f"rank {rank} found nothing")
        group.all_reduce(np.ones(1))

    with pytest.raises(LookupError, match=f"rank {failing} found nothing"):
        group.run(program)


def test_of_several_failures_the_first_rank_is_heard():
    def program(rank: int) -> None:
        raise (KeyError if rank else LookupError)(rank)

    with pytest.raises(LookupError) as failure:
        ThreadGroup(3).run(program)
    assert failure.type is LookupError


def test_after_a_failure_the_group_works_again():
    group = ThreadGroup(3)

    def fails(rank: int) -> None:
        if rank == 1:
            raise LookupError
        group.all_reduce(np.ones(1))

    for _ in range(3):
        with pytest.raises(LookupError):
            group.run(fails)
        assert group.run(lambda _: group.all_reduce(np.ones(1)).item()) == [3, 3, 3]


def test_no_thread_is_left_behind():
    before = threading.active_count()
    ThreadGroup(8).run(lambda rank: rank)
    assert threading.active_count() == before


@pytest.mark.parametrize("size", [0, -1])
def test_nobody_is_no_group(size):
    with pytest.raises(ValueError, match=f"ThreadGroup: size must be at least 1, got {size}"):
        ThreadGroup(size)


@pytest.mark.parametrize("exchange", ["all_reduce", "reduce_scatter"])
def test_sums_are_added_in_rank_order(exchange):
    """In another order the small one is lost: (1e8 - 1e8) + 1 = 1, (1 - 1e8) + 1e8 = 0."""
    own = np.repeat(np.float32([1e8, -1e8, 1]), 3).reshape(3, 3, 1)
    assert exchanged(3, exchange, own).ravel().tolist() == [1] * (
        9 if exchange == "all_reduce" else 3
    )
