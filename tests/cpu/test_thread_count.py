"""The number of threads: named by the caller, else the least of what the process may use."""

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu import thread_count as module
from mimo_v2_flash.cpu.thread_count import (
    ThreadCount,
    cgroup_quota,
    resolve_thread_count,
    set_thread_count,
    thread_count,
)

VERSION_2 = "sys/fs/cgroup"
VERSION_1 = "sys/fs/cgroup/cpu,cpuacct"
NAMED, SHARED = "MIMO_NUM_THREADS", "cores / LOCAL_WORLD_SIZE"


def tree(root: Path, cgroup: str, **quotas: str) -> Path:
    """Write /proc/self/cgroup and the files of quotas below `root`."""
    files = {"proc/self/cgroup": cgroup} | quotas
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.fixture
def cores(monkeypatch):
    """Return a function that sets the machine's cores and those of the affinity."""

    def set_cores(machine: int, affinity: int) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: machine)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)

    set_cores(64, 48)
    return set_cores


@pytest.fixture
def restored(monkeypatch):
    """Restore the process's number of threads after the test."""
    monkeypatch.setattr(module._Process, "threads", None)
    module._resolved.cache_clear()
    yield
    module._resolved.cache_clear()


@pytest.mark.parametrize(
    ("cgroup", "quotas", "expected"),
    [
        ("0::/", {f"{VERSION_2}/cpu.max": "250000 100000"}, 2.5),
        ("0::/", {f"{VERSION_2}/cpu.max": "max 100000"}, math.inf),
        # The whole chain counts: a pod's quota holds for its containers, and the other way round.
        ("0::/pod/box", {f"{VERSION_2}/pod/cpu.max": "300000 100000"}, 3),
        (
            "0::/pod/box",
            {
                f"{VERSION_2}/pod/cpu.max": "300000 100000",
                f"{VERSION_2}/pod/box/cpu.max": "max 100000",
                f"{VERSION_2}/other/cpu.max": "100000 100000",
            },
            3,
        ),
        (
            "0::/pod/box",
            {
                f"{VERSION_2}/pod/cpu.max": "300000 100000",
                f"{VERSION_2}/pod/box/cpu.max": "50000 20000",
            },
            2.5,
        ),
        # In a container the path may be the host's: only the mount's root is visible.
        ("0::/docker/1f", {f"{VERSION_2}/cpu.max": "400000 100000"}, 4),
        ("0::/../../box", {f"{VERSION_2}/box/cpu.max": "700000 100000"}, 7),
        (
            "3:memory:/m\n4:cpu,cpuacct:/pod/box",
            {
                f"{VERSION_1}/pod/box/cpu.cfs_quota_us": "-1",
                f"{VERSION_1}/pod/box/cpu.cfs_period_us": "100000",
                f"{VERSION_1}/pod/cpu.cfs_quota_us": "150000",
                f"{VERSION_1}/pod/cpu.cfs_period_us": "50000",
            },
            3,
        ),
        (
            "4:cpuacct,cpu:/",
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            6,
        ),
        ("4:cpuset:/a", {"sys/fs/cgroup/cpuset/a/cpu.max": "100000 100000"}, math.inf),
        ("0::/", {f"{VERSION_2}/cpu.max": "nonsense"}, math.inf),
    ],
)
def test_the_quota_is_the_least_of_the_chain(tmp_path, cgroup, quotas, expected):
    assert cgroup_quota(tree(tmp_path, cgroup, **quotas)) == expected


def test_a_machine_without_cgroups_has_no_quota(tmp_path):
    assert cgroup_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("threads", "env", "quota", "expected"),
    [
        (3, {"MIMO_NUM_THREADS": "5", "OMP_NUM_THREADS": "2"}, "100000", (3, "threads=")),
        (99, {}, "100000", (99, "threads=")),
        (
            None,
            {"MIMO_NUM_THREADS": " 5 ", "LOCAL_WORLD_SIZE": "64"},
            "100000",
            (5, module.VARIABLE),
        ),
        (None, {}, "max", (48, "CPU affinity")),
        (None, {}, "890000", (8, "cgroup quota")),
        (None, {}, "10000", (1, "cgroup quota")),
        (None, {"LOCAL_WORLD_SIZE": "8"}, "max", (8, SHARED)),
        (None, {"LOCAL_WORLD_SIZE": "1"}, "max", (48, "CPU affinity")),
        (None, {"LOCAL_WORLD_SIZE": "3"}, "1000000", (3, SHARED)),
        (None, {"LOCAL_WORLD_SIZE": "100"}, "max", (1, SHARED)),
        # torchrun sets OMP_NUM_THREADS to 1 by itself.
        (
            None,
            {"LOCAL_WORLD_SIZE": "8", "OMP_NUM_THREADS": "1"},
            "max",
            (8, SHARED),
        ),
        (None, {"OMP_NUM_THREADS": "7"}, "max", (7, "OMP_NUM_THREADS")),
        (None, {"OMP_NUM_THREADS": "7,2"}, "max", (7, "OMP_NUM_THREADS")),
        (None, {"OMP_NUM_THREADS": "99"}, "max", (48, "CPU affinity")),
        (None, {"OMP_NUM_THREADS": "0"}, "max", (48, "CPU affinity")),
        (None, {"OMP_NUM_THREADS": "all"}, "max", (48, "CPU affinity")),
    ],
)
def test_the_first_rule_that_applies_says_how_many(cores, tmp_path, threads, env, quota, expected):
    root = tree(tmp_path, "0::/", **{f"{VERSION_2}/cpu.max": f"{quota} 100000"})
    assert resolve_thread_count(threads, env, root) == expected


@given(
    cores=st.integers(1, 300),
    affinity=st.integers(1, 300),
    ranks=st.integers(1, 20),
    openmp=st.integers(1, 300),
)
def test_it_is_at_least_one_and_never_more_than_any_limit(cores, affinity, ranks, openmp):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "cpu_count", lambda: cores)
        patched.setattr(os, "sched_getaffinity", lambda _: range(affinity), raising=False)
        alone = resolve_thread_count(env={"OMP_NUM_THREADS": f"{openmp}"}, root=Path("/absent"))
        shared = resolve_thread_count(env={"LOCAL_WORLD_SIZE": f"{ranks}"}, root=Path("/absent"))
    assert alone.number == min(affinity, openmp)
    assert shared.number == max(1, min(affinity, cores // ranks))


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5"])
def test_what_is_no_number_of_threads_is_refused_by_name(text):
    with pytest.raises(
        ValueError, match=f"^MIMO_NUM_THREADS is '{text}', allowed is an integer above 0$"
    ):
        resolve_thread_count(env={"MIMO_NUM_THREADS": text})
    with pytest.raises(ValueError, match=r"^threads is 0, allowed is an integer above 0$"):
        resolve_thread_count(0, env={})


def test_without_an_affinity_all_cores_count(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert resolve_thread_count(env={}, root=tmp_path).number == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert resolve_thread_count(env={}, root=tmp_path).number == 1


def test_a_report_says_number_and_rule():
    assert str(ThreadCount(8, "cgroup quota")) == "8 threads (cgroup quota)"
    assert str(ThreadCount(1, "threads=")) == "1 thread (threads=)"


def test_the_processs_number_is_the_last_that_was_set(restored, monkeypatch):
    monkeypatch.setenv("MIMO_NUM_THREADS", "5")
    assert set_thread_count(None) == thread_count() == (5, "MIMO_NUM_THREADS")
    assert set_thread_count(3) == thread_count() == (3, "threads=")
    assert set_thread_count(None) == (3, "threads=")
    assert set_thread_count(4) == (4, "threads=")
    with pytest.raises(ValueError, match="threads is -2"):
        set_thread_count(-2)
    assert thread_count() == (4, "threads=")
