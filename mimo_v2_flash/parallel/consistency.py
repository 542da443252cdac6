"""Ranks that must say the same, and what is said when they do not."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .group import HostGroup

__all__ = [
    "RankError",
    "check_consistent",
    "check_counts",
    "check_ranks",
    "describe_collective",
    "format_ranks",
]
__all__ += ["check_same_collective", "format_by_rank"]

_DIGEST, _SHOWN = 16, 112  # bytes of a fact that travel: its digest, and its beginning


class RankError(RuntimeError):
    """A rank cannot go on because of another rank, which the message names."""


def format_ranks(ranks: Sequence[int]) -> str:
    """Return "rank 2" or "ranks 0 to 3, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    words = (f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(words)}"


def format_by_rank(said: Sequence[str], ranks: Sequence[int]) -> str:
    """Return who says what: "a on ranks 0, 1; b on rank 2"."""
    parties: dict[str, list[int]] = {}
    for rank, what in zip(ranks, said, strict=True):
        parties.setdefault(what, []).append(rank)
    return "; ".join(f"{what} on {format_ranks(party)}" for what, party in parties.items())


def describe_collective(exchange: str, x: Any) -> str:
    """Return an exchange as ranks compare it: its name, dtype and shape."""
    ragged = exchange.startswith("ragged")
    shape = ", ".join(["rows"] * ragged + [str(length) for length in x.shape[ragged:]])
    return f"{exchange} of {x.dtype} [{shape}]"


def check_same_collective(said: Sequence[str], ranks: Sequence[int]) -> None:
    """Raise unless all ranks call the same exchange.

    Raises
    ------
    RankError
        Who calls what.
    """
    if any(what != said[0] for what in said):
        raise RankError(f"mismatched collectives: {format_by_rank(said, ranks)}")


def check_counts(x_ND: Any, count_P: Any, size: int) -> list[int]:
    """Return `count_P` as integers, or raise what `HostGroup.ragged_all_to_all` promises."""
    counts = [int(count) for count in count_P]
    if len(counts) != size or min(counts) < 0 or sum(counts) != x_ND.shape[0]:
        raise ValueError(
            f"ragged_all_to_all: expected {size} counts that sum to {x_ND.shape[0]} rows, "
            f"got {counts}"
        )
    return counts


def check_ranks(ranks: Sequence[int], group: HostGroup) -> tuple[int, ...]:
    """Return `ranks`, or raise what `HostGroup.split` promises."""
    if len(set(ranks)) != len(ranks) or not {group.rank, *ranks} <= {*ranks} & {*range(group.size)}:
        raise ValueError(
            f"split: expected distinct ranks of 0 to {group.size - 1}, {group.rank} among them, "
            f"got {list(ranks)}"
        )
    return tuple(ranks)


def check_consistent(group: HostGroup, **facts: Any) -> None:
    """Make sure that every rank holds the same facts, compared by their `repr`.

    Raises
    ------
    ValueError
        On every rank: the facts that differ, and who holds what.
    """
    own = np.stack([_fingerprint(repr(fact)) for fact in facts.values()])
    held_PFD = group.all_gather(own)
    differing = [
        f"{name}: {format_by_rank([_shown(held) for held in held_PD], range(group.size))}"
        for name, held_PD in zip(facts, np.swapaxes(held_PFD, 0, 1), strict=True)
        if (held_PD != held_PD[0]).any()
    ]
    if differing:
        raise ValueError(f"ranks do not agree on {' | '.join(differing)}")


def _fingerprint(fact: str) -> np.ndarray:
    digest = hashlib.blake2b(fact.encode(), digest_size=_DIGEST).digest()
    return np.frombuffer(digest + fact.encode()[:_SHOWN].ljust(_SHOWN, b"\0"), np.uint8)


def _shown(held_D: np.ndarray) -> str:
    text = held_D[_DIGEST:].tobytes().rstrip(b"\0")
    beginning = text.decode(errors="ignore")
    return f"{beginning}... ({held_D[:4].tobytes().hex()})" if len(text) == _SHOWN else beginning
