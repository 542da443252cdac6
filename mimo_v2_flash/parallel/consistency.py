"""Checks that ranks agree, on collectives and configuration, and the error where they do not."""

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
    "check_same_collective",
    "describe_collective",
    "format_by_rank",
    "format_ranks",
]

_DIGEST, _PREFIX = 16, 112  # bytes sent for each value: its digest, and the beginning of its text


class RankError(RuntimeError):
    """Error of a rank that cannot go on because of another rank, which the message names."""


def format_ranks(ranks: Sequence[int]) -> str:
    """Return ranks as text: "rank 2" or "ranks 0 to 3, 5"."""
    ordered = np.sort(ranks)
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    texts = (f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(texts)}"


def format_by_rank(texts: Sequence[str], ranks: Sequence[int]) -> str:
    """Return each text with the ranks that have it: "a on ranks 0, 1; b on rank 2"."""
    ranks_by_text: dict[str, list[int]] = {}
    for rank, text in zip(ranks, texts, strict=True):
        ranks_by_text.setdefault(text, []).append(rank)
    return "; ".join(f"{text} on {format_ranks(same)}" for text, same in ranks_by_text.items())


def describe_collective(name: str, x: Any) -> str:
    """Return a collective as text that ranks compare: its name, dtype and shape."""
    ragged = name.startswith("ragged")
    shape = ", ".join(["rows"] * ragged + [str(length) for length in x.shape[ragged:]])
    return f"{name} of {x.dtype} [{shape}]"


def check_same_collective(collectives: Sequence[str], ranks: Sequence[int]) -> None:
    """Raise unless all ranks call the same collective.

    Raises
    ------
    RankError
        The collectives differ; the message has each with its ranks.
    """
    if any(collective != collectives[0] for collective in collectives):
        raise RankError(f"mismatched collectives: {format_by_rank(collectives, ranks)}")


def check_counts(x_ND: Any, count_P: Any, size: int) -> list[int]:
    """Return `count_P` as integers, or raise as `HostGroup.ragged_all_to_all` documents."""
    counts = [int(count) for count in count_P]
    if len(counts) != size or min(counts) < 0 or sum(counts) != x_ND.shape[0]:
        raise ValueError(
            f"ragged_all_to_all: expected {size} counts that sum to {x_ND.shape[0]} rows, "
            f"got {counts}"
        )
    return counts


def check_ranks(ranks: Sequence[int], group: HostGroup) -> tuple[int, ...]:
    """Return `ranks` as a tuple, or raise as `HostGroup.split` documents."""
    if len(set(ranks)) != len(ranks) or not {group.rank, *ranks} <= {*ranks} & {*range(group.size)}:
        raise ValueError(
            f"split: expected distinct ranks of 0 to {group.size - 1}, {group.rank} among them, "
            f"got {list(ranks)}"
        )
    return tuple(ranks)


def check_consistent(group: HostGroup, **values: Any) -> None:
    """Make sure that every rank has the same values, compared by their `repr`.

    Raises
    ------
    ValueError
        On every rank; the message has the values that differ, and their values by rank.
    """
    local_FD = np.stack([_encode(repr(value)) for value in values.values()])
    value_PFD = group.all_gather(local_FD)
    differing = [
        f"{name}: {format_by_rank([_decode(value_D) for value_D in value_PD], range(group.size))}"
        for name, value_PD in zip(values, np.swapaxes(value_PFD, 0, 1), strict=True)
        if (value_PD != value_PD[0]).any()
    ]
    if differing:
        raise ValueError(f"ranks do not agree on {' | '.join(differing)}")


def _encode(value: str) -> np.ndarray:
    """Return a value in a fixed number of bytes: its digest, then the beginning of its text."""
    digest = hashlib.blake2b(value.encode(), digest_size=_DIGEST).digest()
    return np.frombuffer(digest + value.encode()[:_PREFIX].ljust(_PREFIX, b"\0"), np.uint8)


def _decode(value_D: np.ndarray) -> str:
    """Return the text of an encoded value; a long one as its beginning and a part of its digest."""
    text = value_D[_DIGEST:].tobytes().rstrip(b"\0")
    prefix = text.decode(errors="ignore")
    return f"{prefix}... ({value_D[:4].tobytes().hex()})" if len(text) == _PREFIX else prefix
