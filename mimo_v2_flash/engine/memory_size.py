"""Sizes of memory: bytes, a number with a unit, or a part of this rank's free memory."""

from __future__ import annotations

import platform
import re
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from mimo_v2_flash import inputs
from mimo_v2_flash.cpu.free_memory import free_memory
from mimo_v2_flash.json_object import shorten

if TYPE_CHECKING:
    from mimo_v2_flash.parallel import HostGroup

__all__ = ["memory_size"]

SIZE = re.compile(r"(\d{1,18}) ?(%|[kMGT]i?B)")
POWERS = {"k": 1, "M": 2, "G": 3, "T": 4}


def memory_size(name: str, size: int | str, group: HostGroup) -> int:
    """Return a size in bytes of each rank, which all ranks call with the same: the least of them.

    Parameters
    ----------
    name
        What the size is called in an error.
    size
        Bytes, a number with a unit ("8GiB", "500 MB"), or a part of the free memory ("10%"), which
        the ranks on a machine share.
    group
        The ranks.

    Raises
    ------
    ValueError
        If it is nothing of this.
    """
    largest = np.iinfo(np.int64).max
    limit = inputs.as_count(name, _parse(name, size, group), minimum=0, maximum=largest)
    return int(np.min(group.all_gather(np.array([limit], np.int64))))


def _parse(name: str, size: int | str, group: HostGroup) -> int:
    if not isinstance(size, str):
        return size
    match = SIZE.fullmatch(size)
    if match is None or (match[2] == "%" and int(match[1]) > 100):
        allowed = 'bytes, a size such as "8GiB", or a part of the free memory such as "10%"'
        raise ValueError(f"{name} is {shorten(size)}, allowed is {allowed}")
    number, unit = int(match[1]), match[2]
    if unit == "%":
        return free_memory() * number // 100 // _local_ranks(group)
    return number * (1024 if "i" in unit else 1000) ** POWERS[unit[0]]


def _local_ranks(group: HostGroup) -> int:
    """Return how many ranks are on this machine, by its name."""
    machine = np.array([crc32(platform.node().encode())], np.int64)
    return int(np.count_nonzero(group.all_gather(machine) == machine))
