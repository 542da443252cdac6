"""The memory that this process may take, and still take: the machine's, or its container's.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max), cgroup-v1/memory.rst.
"""

import math
from pathlib import Path

import psutil

from .cgroup import cgroup_folders

__all__ = ["free_memory", "memory_limit"]

FILES = (  # version 2, version 1: limit, usage, and what of that the system drops when it must
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that are free on the machine and in all control groups of this process.

    `root` is the folder that holds `proc` and `sys`.
    """
    folders = cgroup_folders("memory", root)
    groups = (_free(folder, *files) for folder in folders for files in FILES)
    return int(min(psutil.virtual_memory().available, min(groups, default=math.inf)))


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that the machine has, or the least limit of this process's control groups.

    `root` is the folder that holds `proc` and `sys`.
    """
    folders = cgroup_folders("memory", root)
    groups = (_limit(folder / files[0]) for folder in folders for files in FILES)
    return int(min(psutil.virtual_memory().total, min(groups, default=math.inf)))


def _limit(file: Path) -> float:
    """Return the bytes that a file of a control group allows; infinity if it has no number."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return math.inf


def _free(folder: Path, limit: str, usage: str, droppable: str) -> float:
    """Return the free bytes of one control group, of whose files these are the names."""
    try:
        most, used, stat = ((folder / file).read_text() for file in (limit, usage, "memory.stat"))
        if most.strip() == "max":
            return math.inf
        counts = dict(line.split() for line in stat.splitlines())
        return max(0, int(most) - int(used) + int(counts[droppable]))
    except (KeyError, OSError, ValueError):
        return math.inf
