"""One rank works, all hear what came of it."""

import pytest

from mimo_v2_flash.execution.rank0 import refuse_different, told_by_first
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup


@pytest.mark.parametrize("group", [None, SoloGroup()])
def test_one_alone_works_for_itself(group):
    assert told_by_first(group, lambda: 7) == "7"
    refuse_different(group, b"anything")


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("answer", ["", "é" * 5000, "a\0b"])
def test_all_hear_the_first_and_it_alone_works(size, answer):
    group, worked = ThreadGroup(size), []

    def work() -> str:
        worked.append(group.rank)
        return answer

    assert group.run(lambda _: told_by_first(group, work)) == [answer] * size
    assert worked == [0]


def test_an_error_reaches_all_and_is_itself_on_the_first():
    group, raised = ThreadGroup(3), {}

    def work() -> None:
        raise LookupError("no such program")

    def rank(_: int) -> None:
        try:
            told_by_first(group, work)
        except Exception as error:
            raised[group.rank] = error

    group.run(rank)
    assert isinstance(raised[0], LookupError)
    assert [repr(raised[rank]) for rank in (1, 2)] == ["ValueError('rank 0: no such program')"] * 2


def test_ranks_that_hold_something_else_are_named():
    group = ThreadGroup(4)
    group.run(lambda _: refuse_different(group, b"same"))
    with pytest.raises(ValueError, match=r"ranks \[1, 3\] came to another program"):
        group.run(lambda rank: refuse_different(group, b"odd" if rank % 2 else b"even"))
