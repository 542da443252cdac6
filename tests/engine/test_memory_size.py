"""memory_size: bytes, units, parts of what is free; the least of all ranks."""

import platform
import threading
from types import SimpleNamespace

import psutil
import pytest

from mimo_v2_flash.engine.memory_size import memory_size
from mimo_v2_flash.parallel import ALONE, ThreadGroup

FREE = 4000


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """Let 4,000 bytes be free, or as many as a thread says."""
    free = threading.local()
    monkeypatch.setattr(
        psutil,
        "virtual_memory",
        lambda: SimpleNamespace(available=getattr(free, "available", FREE)),
    )
    return free


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0),
        (1 << 40, 1 << 40),
        ("0%", 0),
        ("10%", 400),
        ("100%", FREE),
        ("3kB", 3000),
        ("500 MB", 500_000_000),
        ("8GiB", 8 << 30),
        ("2TB", 2 * 10**12),
        ("1KiB", None),
        ("1kiB", 1024),
    ],
)
def test_a_size_is_bytes_with_a_unit_or_a_part(size, expected):
    if expected is None:
        with pytest.raises(ValueError, match="memory is '1KiB', allowed is"):
            memory_size("memory", size, ALONE)
    else:
        assert memory_size("memory", size, ALONE) == expected


@pytest.mark.parametrize(
    "size",
    [
        "",
        "10",
        "GB",
        "101%",
        "-1%",
        "1.5GB",
        "8gb",
        "8 PB",
        "8  GB",
        "9" * 5000 + "GB",
        2**63,
        "9999999TB",
        -1,
        1.5,
        True,
        None,
    ],
)
def test_anything_else_is_refused_by_name(size):
    with pytest.raises(ValueError, match=r"^memory "):
        memory_size("memory", size, ALONE)


def test_ranks_of_unequal_memory_have_the_least(free):
    """A rank that dropped other blocks than the others would start prompts elsewhere."""
    group = ThreadGroup(2)

    def sizes(rank: int) -> tuple[int, int]:
        free.available = [4_000, 3_000][rank]
        return memory_size("memory", "10%", group), memory_size("memory", 50, group)

    assert group.run(sizes) == [(150, 50)] * 2


def test_ranks_share_the_memory_of_their_machine(free, monkeypatch):
    """Of four ranks, three are on one machine."""
    group, names = ThreadGroup(4), threading.local()
    monkeypatch.setattr(platform, "node", lambda: names.node)

    def size(rank: int) -> int:
        names.node = "one" if rank else "two"
        return memory_size("memory", "30%", group)

    assert group.run(size) == [400] * 4
