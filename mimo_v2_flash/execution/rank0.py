"""Work that the first of several ranks does for all: its answer, or its error, reaches everyone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from mimo_v2_flash.parallel import HostGroup

__all__ = ["check_same_program", "run_on_rank_0"]

DONE, FAILED = "done", "failed"


def run_on_rank_0(group: HostGroup | None, work: Callable[[], Any]) -> str:
    """Return what `work` returns on rank 0, as text; no other rank calls it.

    Raises
    ------
    ValueError
        On the other ranks, if it has raised on rank 0; the message has that of rank 0, where the
        error is what it was.
    """
    if group is None or group.size == 1:
        return str(work())
    if group.rank == 0:
        try:
            answer = str(work())
        except Exception as error:
            _broadcast(group, FAILED, str(error))
            raise
        _broadcast(group, DONE, answer)
        return answer
    state, said = _broadcast(group)
    if state == FAILED:
        raise ValueError(f"rank 0: {said}")
    return said


def check_same_program(group: HostGroup | None, content: bytes) -> None:
    """Raise ValueError, on every rank, unless all hold the same content."""
    if group is None or group.size == 1:
        return
    digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    held_PD = group.all_gather(digest)
    if different := np.flatnonzero((held_PD != held_PD[0]).any(axis=1)).tolist():
        raise ValueError(f"ranks {different} came to another program, or to one of other shapes")


def _broadcast(group: HostGroup, *said: str) -> list[str]:
    """Return what rank 0 says, here if we are it."""
    own = np.frombuffer("\0".join(said).encode(), np.uint8)[:, None]
    counts = np.full(group.size, len(own))
    got, _ = group.ragged_all_to_all(np.tile(own, (group.size, 1)), counts)
    return bytes(got.tobytes()).decode().split("\0", 1)
