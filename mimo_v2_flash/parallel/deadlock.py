"""When nobody can go on: every rank waits for one that will not come."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from .consistency import format_ranks

__all__ = ["PendingCollective", "describe_deadlock"]


class PendingCollective(NamedTuple):
    """Where a rank waits.

    Parameters
    ----------
    ranks
        Who exchanges there.
    turn
        Which of their exchanges it is.
    what
        What the rank calls.
    """

    ranks: tuple[int, ...]
    turn: int
    what: str


def describe_deadlock(
    waiting: Mapping[int, PendingCollective], left: Collection[int], size: int
) -> str:
    """Return who waits for whom, or nothing if one of `size` ranks can still go on."""
    if not waiting or len(waiting) + len(left) < size:
        return ""
    parties: dict[str, list[int]] = {}
    for rank, here in sorted(waiting.items()):
        absent = [r for r in here.ranks if r not in waiting or waiting[r][:2] != here[:2]]
        if not absent:
            return ""
        parties.setdefault(f"{here.what} waits for {format_ranks(absent)}", []).append(rank)
    if left:
        parties["returned"] = [*left]
    places = "; ".join(f"{format_ranks(party)}: {place}" for place, party in parties.items())
    return f"deadlock: no rank can go on: {places}"
