"""Rendezvous: deadlocked or mismatched ranks fail at once, with the collective of each."""

import gc
import threading
import weakref

import numpy as np
import pytest

from mimo_v2_flash.parallel import RankError, ThreadGroup

ONE = np.ones(1, np.float32)


def failure(size: int, program) -> str:
    """Return the message of the RankError that a run of `program(group, rank)` raises."""
    group = ThreadGroup(size)
    with pytest.raises(RankError) as error:
        group.run(lambda rank: program(group, rank))
    assert group.run(lambda _: group.all_reduce(ONE).item()) == [size] * size  # and it works again
    return str(error.value)


@pytest.mark.parametrize("returned", [0, 2])
def test_a_rank_that_returned_is_named(returned):
    def program(group, rank):
        if rank != returned:
            group.all_reduce(ONE)

    assert failure(3, program).endswith(
        f": all_reduce of float32 [1] waits for rank {returned}; rank {returned}: returned"
    )


def test_ranks_that_wait_for_each_other_are_named():
    def program(group, rank):
        (group.split([0, 1]) if rank == 0 else group).all_gather(ONE)

    message = failure(3, program)
    assert "rank 0: all_gather of float32 [1] waits for rank 1; " in message
    assert "ranks 1, 2: all_gather of float32 [1] waits for rank 0" in message


def test_different_collectives_are_mismatched():
    def program(group, rank):
        (group.all_reduce if rank == 1 else group.all_gather)(ONE)

    assert failure(3, program) == (
        "mismatched collectives: all_gather of float32 [1] on ranks 0, 2; "
        "all_reduce of float32 [1] on rank 1"
    )


@pytest.mark.parametrize(
    "odd", [np.ones(2, np.float32), np.ones((1, 1), np.float32), np.ones(1, np.int32)]
)
def test_different_shapes_and_dtypes_are_mismatched(odd):
    message = failure(4, lambda group, rank: group.all_reduce(odd if rank == 3 else ONE))
    assert message.endswith(
        f"on ranks 0 to 2; all_reduce of {odd.dtype} {list(odd.shape)} on rank 3"
    )


def test_a_subgroup_names_the_ranks_of_the_run():
    def program(group, rank):
        pair = group.split([0, 1] if rank < 2 else [2, 3])
        pair.all_reduce(np.ones(2, np.float32) if rank == 3 else ONE)

    assert "float32 [1] on rank 2; all_reduce of float32 [2] on rank 3" in failure(4, program)


def test_a_slow_rank_is_waited_for():
    group = ThreadGroup(2)
    go = threading.Event()
    threading.Timer(0.5, go.set).start()

    def program(rank: int) -> float:
        if rank == 1:
            go.wait()
        return group.all_reduce(ONE).item()

    assert group.run(program) == [2, 2]


def test_waiting_ranks_learn_what_the_failed_rank_raised():
    group = ThreadGroup(2)
    messages = []

    def program(rank: int) -> None:
        if rank == 1:
            raise LookupError("no such expert")
        try:
            group.all_reduce(ONE)
        except RankError as error:
            messages.append(str(error))
            raise

    with pytest.raises(LookupError):
        group.run(program)
    assert messages == ["rank 1 raised LookupError: no such expert"]


def test_no_array_outlives_its_collective():
    """A rank's last array may be as large as a cache; nobody waits for it any more."""
    group, arrays = ThreadGroup(2), []

    def program(_: int) -> None:
        x = np.ones(3, np.float32)
        arrays.append(weakref.ref(x))
        group.all_reduce(x)

    group.run(program)
    gc.collect()
    assert [array() for array in arrays] == [None, None]


def test_a_run_that_failed_leaves_nothing_to_the_next():
    group, arrays = ThreadGroup(2), []

    def program(rank: int) -> None:
        if rank == 0:
            x = np.ones(3, np.float32)
            arrays.append(weakref.ref(x))
            group.all_reduce(x)

    with pytest.raises(RankError):
        group.run(program)
    group.run(lambda _: None)
    gc.collect()
    assert arrays[0]() is None
