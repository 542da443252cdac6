"""Deadlock detection: reported when no rank can go on, and never before."""

import pytest

from mimo_v2_flash.parallel.deadlock import PendingCollective, describe_deadlock

ALL = PendingCollective((0, 1, 2), 7, "all_reduce")
PAIR = PendingCollective((0, 1), 3, "all_gather")


@pytest.mark.parametrize(
    ("waiting", "left"),
    [
        ({}, []),
        ({}, [0, 1, 2]),
        ({0: ALL, 1: ALL}, []),  # rank 2 computes
        ({0: PAIR}, [2]),  # rank 1 computes
        ({0: ALL, 1: ALL, 2: ALL}, []),  # all have called it: the bytes are under way
        ({0: PAIR, 1: PAIR, 2: ALL}, []),  # the pair will go on, and call it
    ],
)
def test_no_deadlock_while_a_rank_can_go_on(waiting, left):
    assert describe_deadlock(waiting, left, 3) == ""


@pytest.mark.parametrize(
    ("waiting", "left", "states"),
    [
        (
            {0: ALL, 1: ALL},
            [2],
            "ranks 0, 1: all_reduce waits for rank 2; rank 2: returned",
        ),
        (
            {0: PAIR, 1: ALL, 2: ALL},
            [],
            "rank 0: all_gather waits for rank 1; ranks 1, 2: all_reduce waits for rank 0",
        ),
        (
            {0: ALL, 1: ALL, 2: ALL._replace(sequence=8)},
            [],
            "ranks 0, 1: all_reduce waits for rank 2; rank 2: all_reduce waits for ranks 0, 1",
        ),
    ],
)
def test_a_deadlock_names_the_ranks(waiting, left, states):
    assert describe_deadlock(waiting, left, 3) == f"deadlock: {states}"
