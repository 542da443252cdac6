"""Work that rank 0 does for all ranks: its result, or its error, is broadcast."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import MissingProgramError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mimo_v2_flash.parallel import HostGroup

__all__ = ["check_same_program", "run_on_rank_0"]

DONE, FAILED, MISSING = "done", "failed", "missing"


def run_on_rank_0(group: HostGroup | None, work: Callable[[], Any]) -> str:
    """Return the result of `work` on rank 0, as text, on every rank; only rank 0 calls `work`.

    Raises
    ------
    ValueError
        On the other ranks, if `work` raises on rank 0; the message contains rank 0's. It is a
        MissingProgramError if a program is missing or its compiler failed. On rank 0 the error
        itself is raised.
    """
    if group is None or group.size == 1:
        return str(work())
    if group.rank == 0:
        try:
            result = str(work())
        except Exception as error:
            is_missing = isinstance(error, MissingProgramError | ChildProcessError)
            _broadcast(group, MISSING if is_missing else FAILED, str(error))
            raise
        _broadcast(group, DONE, result)
        return result
    state, text = _broadcast(group)
    if state != DONE:
        raise {FAILED: ValueError, MISSING: MissingProgramError}[state](f"rank 0: {text}")
    return text


def check_same_program(group: HostGroup | None, content: bytes) -> None:
    """Raise ValueError on every rank unless all ranks have the same program, as bytes."""
    if group is None or group.size == 1:
        return
    digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    digest_PD = group.all_gather(digest)
    if different := np.flatnonzero((digest_PD != digest_PD[0]).any(axis=1)).tolist():
        raise ValueError(
            f"mismatched programs: ranks {different} traced another program than rank 0, or the "
            "same one with other shapes"
        )


def _broadcast(group: HostGroup, *message: str) -> list[str]:
    """Return the state and the text that rank 0 passes as `message`; other ranks pass none."""
    content = np.frombuffer("\0".join(message).encode(), np.uint8)[:, None]
    counts = np.full(group.size, len(content))
    received, _ = group.ragged_all_to_all(np.tile(content, (group.size, 1)), counts)
    return bytes(received.tobytes()).decode().split("\0", 1)
