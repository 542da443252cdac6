"""free_memory: the least of the machine and of a container's control groups."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mimo_v2_flash.cpu.free_memory import free_memory, memory_limit

AVAILABLE, TOTAL = 1000, 2000
V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.fixture(autouse=True)
def available(monkeypatch):
    """Let 1,000 of 2,000 bytes be available on the machine."""
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(available=AVAILABLE, total=TOTAL)
    )


def group(folder: Path, files: tuple[str, str], limit: str, usage: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*files, "memory.stat"), (limit, str(usage), stat), strict=True):
        (folder / name).write_text(f"{text}\n")


def root_of(root: Path, groups: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    return root / "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("limit", "usage", "stat", "expected"),
    [
        ("600", 200, "anon 150\ninactive_file 50", 450),
        ("600", 700, "inactive_file 0", 0),
        ("5000", 200, "inactive_file 50", AVAILABLE),
        ("max", 200, "inactive_file 50", AVAILABLE),
        ("nonsense", 200, "inactive_file 50", AVAILABLE),
        ("600", 200, "anon 150", AVAILABLE),
        ("600", 200, "three words here", AVAILABLE),
    ],
)
def test_a_container_has_what_its_group_leaves(tmp_path, limit, usage, stat, expected):
    mount = root_of(tmp_path, "0::/pod/box")
    group(mount / "pod", V2, limit, usage, stat)
    assert free_memory(tmp_path) == expected


def test_groups_of_version_1_count_their_children(tmp_path):
    mount = root_of(tmp_path, "4:memory:/box\n0::/")
    group(mount / "memory", V1, "900", 100, "inactive_file 1\ntotal_inactive_file 20")
    group(mount / "memory/box", V1, "700", 100, "inactive_file 1\ntotal_inactive_file 30")
    assert free_memory(tmp_path) == 630


def test_a_machine_without_groups_has_what_is_available(tmp_path):
    assert free_memory(tmp_path) == AVAILABLE


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (("600", "max"), 600), (("max", "700"), 700), (("900", "700"), 700), (("5000",), TOTAL),
        (("nonsense",), TOTAL),
    ],
)  # fmt: skip
def test_the_limit_is_that_of_the_least_group_or_the_machine(tmp_path, limits, expected):
    folder = root_of(tmp_path, f"0::/{'/'.join('group' for _ in limits)}")
    for limit in limits:
        folder = folder / "group"
        group(folder, V2, limit, 0, "inactive_file 0")
    assert memory_limit(tmp_path) == expected
