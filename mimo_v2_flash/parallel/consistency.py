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
    "check_replicas",
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
    """Return `count_P` as integers, or raise as `HostGroup.ragged_all_to_all` documents.

    Parameters
    ----------
    x_ND : array
        Rows that are sent, those for rank 0 first.
    count_P : sequence of int
        Rows for each rank.
    size : int
        Number of ranks.
    """
    counts = [int(count) for count in count_P]
    if len(counts) != size or min(counts) < 0 or sum(counts) != x_ND.shape[0]:
        raise ValueError(
            f"ragged_all_to_all: expected {size} counts that sum to {x_ND.shape[0]} rows, "
            f"got {counts!s:.200}"
        )
    return counts


def check_ranks(ranks: Sequence[int], group: HostGroup) -> tuple[int, ...]:
    """Return `ranks` as a tuple, or raise as `HostGroup.split` documents."""
    if len(set(ranks)) != len(ranks) or not {group.rank, *ranks} <= {*ranks} & {*range(group.size)}:
        raise ValueError(
            f"split: expected distinct ranks of 0 to {group.size - 1}, {group.rank} among them, "
            f"got {list(ranks)!s:.200}"
        )
    return tuple(ranks)


def check_consistent(group: HostGroup, **values: Any) -> None:
    """Make sure that every rank has the same values, compared by their `repr`.

    Raises
    ------
    ValueError
        On every rank; the message has the values that differ, and their values by rank.
    """
    check_replicas(group, **{name: (None, value) for name, value in values.items()})


def check_replicas(group: HostGroup, **values: tuple[Any, Any]) -> None:
    """Make sure that ranks with the same key of a value have the same value: (key, value) each.

    A single rank agrees with itself: nothing is encoded.

    Raises
    ------
    ValueError
        As `check_consistent`.
    """
    if group.size == 1:
        return
    local_FKD = np.stack([[_encode(repr(part)) for part in pair] for pair in values.values()])
    all_FPKD = np.swapaxes(group.all_gather(local_FKD), 0, 1)
    differing = []
    for name, pair_PKD in zip(values, all_FPKD, strict=True):
        keys_P, text_P = ([part_D.tobytes() for part_D in x_PD] for x_PD in pair_PKD.swapaxes(0, 1))
        ranks = [
            rank for rank, key in enumerate(keys_P) if text_P[rank] != text_P[keys_P.index(key)]
        ]
        if ranks:
            odd_keys = {keys_P[rank] for rank in ranks}
            members = [rank for rank, key in enumerate(keys_P) if key in odd_keys]
            texts = [_decode(pair_PKD[rank, 1]) for rank in members]
            differing.append(f"{name}: {format_by_rank(texts, members)}")
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
