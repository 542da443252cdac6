"""The number of threads of this process: an explicit one, or as many cores as it may use.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max), scheduler/sched-bwc.rst
(cpu.cfs_quota_us); torchrun sets OMP_NUM_THREADS to 1 for several ranks, which says nothing.
"""

import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .cgroup import cgroup_folders

__all__ = [
    "ThreadCount",
    "cgroup_quota",
    "resolve_thread_count",
    "set_thread_count",
    "thread_count",
]

VARIABLE, RANKS, OPENMP = "MIMO_NUM_THREADS", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"
QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # version 2, version 1


class ThreadCount(NamedTuple):
    """A number of threads, and the rule that it follows from."""

    number: int
    rule: str

    def __str__(self) -> str:
        return f"{self.number} thread{'s' * (self.number > 1)} ({self.rule})"


def resolve_thread_count(
    threads: int | None = None,
    env: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> ThreadCount:
    """Return `threads`, else MIMO_NUM_THREADS, else the least of what this process may use.

    That is its CPU affinity; its cgroup's quota, rounded down; its part of the machine's cores and
    of the quota among LOCAL_WORLD_SIZE ranks; and OMP_NUM_THREADS without LOCAL_WORLD_SIZE.

    Parameters
    ----------
    threads
        The number, if the caller names one.
    env
        Environment variables.
    root
        Folder that holds `proc` and `sys`.

    Raises
    ------
    ValueError
        If `threads` or MIMO_NUM_THREADS is not an integer above 0; it is named.
    """
    if threads is not None:
        return ThreadCount(_at_least_1("threads", threads), "threads=")
    if VARIABLE in env:
        return ThreadCount(_at_least_1(VARIABLE, env[VARIABLE]), VARIABLE)
    affinity = getattr(os, "sched_getaffinity", None)
    cores, quota = os.cpu_count() or 1, cgroup_quota(root)
    limits = [
        (len(affinity(0)) if affinity else cores, "CPU affinity"),
        (quota, "cgroup quota"),
    ]
    if ranks := _whole(env.get(RANKS, "")):
        limits.append((min(cores, quota) / ranks, f"cores / {RANKS}"))
    elif threads_of_openmp := _whole(env.get(OPENMP, "").split(",")[0]):
        limits.append((threads_of_openmp, OPENMP))
    number, rule = min(limits, key=lambda limit: limit[0])
    return ThreadCount(max(1, int(number)), rule)


def _whole(text: str) -> int:
    """Return the integer that a variable has; 0 if it has none: it is not this project's."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _at_least_1(name: str, text: int | str) -> int:
    try:
        count = int(f"{text}")  # no number that int() rounds
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} is {text!r}, allowed is an integer above 0")
    return count


def cgroup_quota(root: Path = Path("/")) -> float:
    """Return the CPU quota of this process in cores: the least of its cgroups and those above.

    Infinity if there is none. `root` is the folder that holds `proc` and `sys`.
    """
    folders = cgroup_folders("cpu", root)
    return min((_quota(folder, *files) for folder in folders for files in QUOTAS), default=math.inf)


def _quota(folder: Path, *files: str) -> float:
    """Return the quota of one cgroup, whose `files` hold microseconds and their period."""
    try:
        quota, period = " ".join((folder / file).read_text() for file in files).split()
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


class _Process:
    """The number of threads that this process was told to use."""

    threads: int | None = None


_resolved = cache(resolve_thread_count)


def thread_count() -> ThreadCount:
    """Return the number of threads of this process; the environment is read once."""
    return _resolved(_Process.threads)


def set_thread_count(threads: int | None) -> ThreadCount:
    """Set the number of threads of this process, for all models in it; None leaves it as it is."""
    if threads is not None:
        _Process.threads = resolve_thread_count(threads).number
    return thread_count()
