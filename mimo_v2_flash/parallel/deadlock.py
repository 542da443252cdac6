"""Deadlock detection: every rank waits for a rank that will not call the same collective."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from .consistency import format_ranks

__all__ = ["PendingCollective", "describe_deadlock"]


class PendingCollective(NamedTuple):
    """A collective that a rank has called and that has not completed.

    Parameters
    ----------
    ranks
        The ranks of its group.
    sequence
        Sequence number in its group; equal where ranks call the same collective.
    collective
        Its description, for messages.
    """

    ranks: tuple[int, ...]
    sequence: int
    collective: str


def describe_deadlock(
    waiting: Mapping[int, PendingCollective], left: Collection[int], size: int
) -> str:
    """Return which ranks wait for which, or "" while one of `size` ranks can still go on.

    Parameters
    ----------
    waiting
        The pending collective of every rank that waits.
    left
        The ranks that have returned.
    size
        How many ranks the run has.
    """
    if not waiting or len(waiting) + len(left) < size:
        return ""
    ranks_by_state: dict[str, list[int]] = {}
    for rank, pending in sorted(waiting.items()):
        absent = [r for r in pending.ranks if r not in waiting or waiting[r][:2] != pending[:2]]
        if not absent:
            return ""
        state = f"{pending.collective} waits for {format_ranks(absent)}"
        ranks_by_state.setdefault(state, []).append(rank)
    if left:
        ranks_by_state["returned"] = [*left]
    states = "; ".join(f"{format_ranks(ranks)}: {state}" for state, ranks in ranks_by_state.items())
    return f"deadlock: {states}"
