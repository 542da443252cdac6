"""One rank works, all hear what came of it."""

import pytest

from mimo_v2_flash.execution.rank0 import check_same_program, run_on_rank_0
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup


@pytest.mark.parametrize("group", [None, SoloGroup()])
def test_one_alone_works_for_itself(group):
    assert run_on_rank_0(group, lambda: 7) == "7"
    check_same_program(group, b"anything")


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("answer", ["", "é" * 5000, "a\0b"])
def test_all_hear_the_first_and_it_alone_works(size, answer):
    group, worked = ThreadGroup(size), []

    def work() -> str:
        worked.append(group.rank)
        return answer

    assert group.run(lambda _: run_on_rank_0(group, work)) == [answer] * size
    assert worked == [0]


def test_an_error_reaches_all_and_is_itself_on_the_first():
    group, raised = ThreadGroup(3), {}

    def work() -> None:
        raise LookupError("no such program")

    def rank(_: int) -> None:
        try:
            run_on_rank_0(group, work)
        except Exception as error:
            raised[group.rank] = error

    group.run(rank)
    assert isinstance(raised[0], LookupError)
    assert [repr(raised[rank]) for rank in (1, 2)] == ["ValueError('rank 0: no such program')"] * 2


def test_ranks_that_hold_something_else_are_named():
    group = ThreadGroup(4)
    group.run(lambda _: check_same_program(group, b"same"))
    with pytest.raises(ValueError, match=r"ranks \[1, 3\] came to another program"):
        group.run(lambda rank: check_same_program(group, b"odd" if rank % 2 else b"even"))
