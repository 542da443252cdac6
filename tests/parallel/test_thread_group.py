"""ThreadGroup: collectives are right, and a rank that fails releases the others."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.parallel import RankError, ThreadGroup
from tests.support.kinds import host_kinds

sizes = pytest.mark.parametrize("P", [1, 2, 3, 8])


def counts(P: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 3), min_size=P, max_size=P)


def random_by_rank(*shape: int) -> np.ndarray:
    """Return random numbers whose first axis is the rank."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def collective(P: int, name: str, x_by_rank, on=lambda function: function) -> np.ndarray:
    """Return the result of collective `name` on every rank, in rank order."""
    group = ThreadGroup(P)
    return np.stack(group.run(lambda rank: on(getattr(group, name))(x_by_rank[rank])))


@host_kinds
@sizes
def test_all_to_all_transposes(on, P):
    sent = random_by_rank(P, P, 2, 3)  # by rank, to rank
    np.testing.assert_array_equal(collective(P, "all_to_all", sent, on), np.swapaxes(sent, 0, 1))


@host_kinds
@sizes
def test_all_gather_stacks_on_every_rank(on, P):
    local = random_by_rank(P, 2, 3)
    np.testing.assert_array_equal(collective(P, "all_gather", local, on), np.stack([local] * P))


@host_kinds
@sizes
def test_reduce_scatter_sums_the_rows_of_each_rank(on, P):
    sent = random_by_rank(P, P, 2, 3)
    expected = np.sum(sent, axis=0)
    np.testing.assert_allclose(collective(P, "reduce_scatter", sent, on), expected, rtol=1e-5)


@host_kinds
@sizes
def test_all_reduce_sums_on_every_rank(on, P):
    local = random_by_rank(P, 2, 3)
    actual = collective(P, "all_reduce", local, on)
    np.testing.assert_allclose(actual[0], np.sum(local, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(actual, np.stack([actual[0]] * P))  # to the bit


@sizes
@given(data=st.data())
def test_ragged_rows_arrive_in_rank_order(P, data):
    count_PP = np.array(data.draw(st.lists(counts(P), min_size=P, max_size=P)))  # by rank, to rank
    rows_by_rank = [np.repeat(10 * rank + np.arange(P), count_PP[rank]) for rank in range(P)]
    group = ThreadGroup(P)
    received = group.run(
        lambda rank: group.ragged_all_to_all(rows_by_rank[rank][:, None], count_PP[rank])
    )
    for rank, (x_ND, count_P) in enumerate(received):
        np.testing.assert_array_equal(count_P, count_PP[:, rank])
        np.testing.assert_array_equal(x_ND[:, 0], np.repeat(10 * np.arange(P) + rank, count_P))


@pytest.mark.parametrize("count_P", [[3], [1, 1], [4, -1], [1, 1, 1]])
def test_counts_that_do_not_fit_are_refused(count_P):
    group = ThreadGroup(2)
    with pytest.raises(ValueError, match="expected 2 counts that sum to 3 rows, got"):
        group.run(lambda _: group.ragged_all_to_all(np.ones((3, 1)), count_P))


@sizes
def test_programs_get_their_rank_and_results_are_in_rank_order(P):
    assert ThreadGroup(P).run(lambda rank: rank * 10) == [rank * 10 for rank in range(P)]
    group = ThreadGroup(P)
    assert group.run(lambda _: group.rank) == [*range(P)]


def test_successive_collectives_do_not_mix():
    group = ThreadGroup(4)

    def program(rank: int) -> float:
        total = np.full(1, rank, np.float32)
        for _ in range(50):
            total = group.all_reduce(total) / np.float32(4)
            total = group.all_gather(total + np.float32(rank))[rank] - np.float32(rank)
        return total.item()

    assert group.run(program) == [1.5] * 4


def test_inputs_may_be_overwritten_after_a_collective():
    group = ThreadGroup(3)

    def program(rank: int) -> bool:
        x_PD, equal = np.empty((3, 500), np.float32), True
        expected = np.repeat(np.arange(3, dtype=np.float32), 500).reshape(3, 500)
        for _ in range(100):
            for call, x in ((group.all_to_all, x_PD), (group.all_gather, x_PD[0])):
                x_PD[:] = rank
                output = call(x)
                x_PD[:] = 99
                equal = equal and np.array_equal(output, expected)
        return equal

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


def test_of_several_failures_that_of_the_lowest_rank_is_raised():
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
def test_a_group_without_ranks_is_refused(size):
    with pytest.raises(ValueError, match=f"ThreadGroup: size must be at least 1, got {size}"):
        ThreadGroup(size)


@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter"])
def test_sums_are_added_in_rank_order(name):
    """In another order the small one is lost: (1e8 - 1e8) + 1 = 1, (1 - 1e8) + 1e8 = 0."""
    x_PPD = np.repeat(np.float32([1e8, -1e8, 1]), 3).reshape(3, 3, 1)
    assert collective(3, name, x_PPD).ravel().tolist() == [1] * (9 if name == "all_reduce" else 3)


def test_a_broadcast_is_rank_0s_message_in_any_subgroup():
    group = ThreadGroup(4)

    def program(rank: int):
        pair = group.split([3, 1]) if rank % 2 else group.split([0, 2])
        return group.broadcast(b"of %d" % rank), pair.broadcast(b"of %d" % rank)

    assert [whole for whole, _ in group.run(program)] == [b"of 0"] * 4
    assert [part for _, part in group.run(program)] == [b"of 0", b"of 3", b"of 0", b"of 3"]


@pytest.mark.parametrize("rank", [0, 2])
def test_an_abort_releases_those_that_wait_and_those_that_call_later(rank):
    group, errors = ThreadGroup(3), []

    def program(at: int):
        if at == rank:
            group.abort(LookupError("no such expert"))
        for _ in range(0 if at == rank else 2):
            with pytest.raises(RankError) as caught:
                group.broadcast(b"")
            errors.append(str(caught.value))

    group.run(program)
    assert errors == [f"rank {rank} raised LookupError: no such expert"] * 4
    assert group.run(lambda at: group.broadcast(b"%d" % at)) == [b"0"] * 3  # the next run is new
