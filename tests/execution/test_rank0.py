"""Work on rank 0: its result or its error reaches every rank."""

import pytest

from mimo_v2_flash.execution import MissingProgramError
from mimo_v2_flash.execution.rank0 import check_same_program, run_on_rank_0
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup


@pytest.mark.parametrize("group", [None, SoloGroup()])
def test_a_single_rank_runs_the_work_itself(group):
    assert run_on_rank_0(group, lambda: 7) == "7"
    check_same_program(group, b"anything")


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("result", ["", "é" * 5000, "a\0b"])
def test_all_ranks_get_the_result_and_only_rank_0_works(size, result):
    group, worked = ThreadGroup(size), []

    def work() -> str:
        worked.append(group.rank)
        return result

    assert group.run(lambda _: run_on_rank_0(group, work)) == [result] * size
    assert worked == [0]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (LookupError, "ValueError"),
        (ChildProcessError, "MissingProgramError"),
        (MissingProgramError, "MissingProgramError"),
    ],
)
def test_an_error_reaches_all_ranks_and_is_unchanged_on_rank_0(fault, name):
    group, raised = ThreadGroup(3), {}

    def work() -> None:
        raise fault("no such program")

    def rank(_: int) -> None:
        try:
            run_on_rank_0(group, work)
        except Exception as error:
            raised[group.rank] = error

    group.run(rank)
    assert type(raised[0]) is fault
    assert [repr(raised[rank]) for rank in (1, 2)] == [f"{name}('rank 0: no such program')"] * 2


def test_ranks_with_another_program_are_named():
    group = ThreadGroup(4)
    group.run(lambda _: check_same_program(group, b"same"))
    with pytest.raises(ValueError, match=r"ranks \[1, 3\] traced another program"):
        group.run(lambda rank: check_same_program(group, b"odd" if rank % 2 else b"even"))
