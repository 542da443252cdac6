"""Programs of one rank, run as processes: `python -m tests.support.rank_programs NAME ...`.

The odd rank misbehaves as the name of the program says; the others do not.
"""

import os
import signal
import sys
import time

import numpy as np

from mimo_v2_flash.parallel import HostGroup, check_consistent, init_process_group
from tests.support.same_collectives import same_as_threads

ONE = np.ones(1, np.float32)


def nothing_wrong(group: HostGroup, odd: bool) -> None:
    assert group.all_reduce(ONE).item() == group.size


def equals_threads(group: HostGroup, odd: bool) -> None:
    same_as_threads(group)


def raises(group: HostGroup, odd: bool) -> None:
    if odd:
        raise LookupError("no such expert")
    group.all_reduce(ONE)


def is_killed(group: HostGroup, odd: bool) -> None:
    if odd:
        os.kill(os.getpid(), signal.SIGKILL)
    group.all_reduce(ONE)


def freezes(group: HostGroup, odd: bool) -> None:
    if odd:
        os.kill(os.getpid(), signal.SIGSTOP)
    group.all_reduce(ONE)


def is_killed_while_others_compute(group: HostGroup, odd: bool) -> None:
    if odd:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def returns_early(group: HostGroup, odd: bool) -> None:
    if not odd:
        group.all_reduce(ONE)


def brings_another_shape(group: HostGroup, odd: bool) -> None:
    group.all_reduce(np.ones(2 if odd else 1, np.float32))


def calls_another_collective(group: HostGroup, odd: bool) -> None:
    (group.all_gather if odd else group.all_reduce)(ONE)


def has_another_config(group: HostGroup, odd: bool) -> None:
    check_consistent(group, layers=48, window=64 if odd else 128)


def splits_otherwise(group: HostGroup, odd: bool) -> None:
    if group.rank < 3:
        group.split([0, 1, 2] if odd else [0, 1]).all_reduce(ONE)
    group.all_reduce(ONE)


def is_slow(group: HostGroup, odd: bool) -> None:
    """Compute on the odd rank for longer than the timeout of the heartbeat."""
    until = time.monotonic() + 8 * odd
    while time.monotonic() < until:
        np.ones((200, 200)) @ np.ones((200, 200))
    nothing_wrong(group, odd)


if __name__ == "__main__":
    name, odd_rank, start_timeout, heartbeat_timeout = sys.argv[1:]
    with init_process_group(
        os.environ, start_timeout=float(start_timeout), heartbeat_timeout=int(heartbeat_timeout)
    ) as ranks:
        globals()[name](ranks, ranks.rank == int(odd_rank))
        sys.stdout.write(f"rank {ranks.rank} of {ranks.size} is well\n")
