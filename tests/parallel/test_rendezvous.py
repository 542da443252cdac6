"""Meeting: ranks that will never meet are told why, at once, and who was where."""

import threading

import numpy as np
import pytest

from mimo_v2_flash.parallel import RankError, ThreadGroup

ONE = np.ones(1, np.float32)


def refusal(size: int, program) -> str:
    """Return what a run of `program(group, rank)` is refused with."""
    group = ThreadGroup(size)
    with pytest.raises(RankError) as refused:
        group.run(lambda rank: program(group, rank))
    assert group.run(lambda _: group.all_reduce(ONE).item()) == [size] * size  # and it works again
    return str(refused.value)


@pytest.mark.parametrize("leaving", [0, 2])
def test_a_rank_that_left_is_named(leaving):
    def program(group, rank):
        if rank != leaving:
            group.all_reduce(ONE)

    assert refusal(3, program).endswith(
        f": all_reduce of float32 [1] waits for rank {leaving}; rank {leaving}: returned"
    )


def test_ranks_that_wait_for_each_other_are_named():
    def program(group, rank):
        (group.split([0, 1]) if rank == 0 else group).all_gather(ONE)

    said = refusal(3, program)
    assert "rank 0: all_gather of float32 [1] waits for rank 1; " in said
    assert "ranks 1, 2: all_gather of float32 [1] waits for rank 0" in said


def test_different_exchanges_are_told_apart():
    def program(group, rank):
        (group.all_reduce if rank == 1 else group.all_gather)(ONE)

    assert refusal(3, program) == (
        "mismatched collectives: all_gather of float32 [1] on ranks 0, 2; "
        "all_reduce of float32 [1] on rank 1"
    )


@pytest.mark.parametrize(
    "odd", [np.ones(2, np.float32), np.ones((1, 1), np.float32), np.ones(1, np.int32)]
)
def test_different_shapes_and_dtypes_are_told_apart(odd):
    said = refusal(4, lambda group, rank: group.all_reduce(odd if rank == 3 else ONE))
    assert said.endswith(f"on ranks 0 to 2; all_reduce of {odd.dtype} {list(odd.shape)} on rank 3")


def test_a_subgroup_names_ranks_as_the_run_does():
    def program(group, rank):
        own = group.split([0, 1] if rank < 2 else [2, 3])
        own.all_reduce(np.ones(2, np.float32) if rank == 3 else ONE)

    assert "float32 [1] on rank 2; all_reduce of float32 [2] on rank 3" in refusal(4, program)


def test_a_slow_rank_is_waited_for():
    group = ThreadGroup(2)
    go = threading.Event()
    threading.Timer(0.5, go.set).start()

    def program(rank: int) -> float:
        if rank == 1:
            go.wait()
        return group.all_reduce(ONE).item()

    assert group.run(program) == [2, 2]


def test_who_waits_for_a_failed_rank_hears_what_it_raised():
    group = ThreadGroup(2)
    heard = []

    def program(rank: int) -> None:
        if rank == 1:
            raise LookupError("no such expert")
        try:
            group.all_reduce(ONE)
        except RankError as error:
            heard.append(str(error))
            raise

    with pytest.raises(LookupError):
        group.run(program)
    assert heard == ["rank 1 raised LookupError: no such expert"]
