"""Fake process group for dry runs: one rank computes, and no message is sent.

Results have the right shapes and dtypes, as if every rank held what this rank holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .consistency import check_counts, check_ranks

__all__ = ["FakeGroup"]


@dataclass(frozen=True)
class FakeGroup:
    """Process group whose ranks all pass the same input as this one to every collective.

    Parameters
    ----------
    size
        Number of ranks, of which only this one exists.
    rank
        Number of this rank.
    """

    size: int
    rank: int = 0

    def all_to_all(self, x_PMD: Any) -> Any:
        """Return row `rank` of `x_PMD` once for every rank, as received from it."""
        return np.broadcast_to(x_PMD[self.rank], x_PMD.shape)

    def all_gather(self, x_ND: Any) -> Any:
        """Return `x_ND` once for every rank."""
        return np.broadcast_to(x_ND, (self.size, *x_ND.shape))

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Return the sum of every rank's row `rank` of `x_PND`."""
        return self.all_reduce(x_PND[self.rank])

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`: `x` times `size`."""
        return x * x.dtype.type(self.size)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Return the rows for this rank once for every rank, and their counts."""
        counts = check_counts(x_ND, count_P, self.size)
        start = sum(counts[: self.rank])
        rows = [x_ND[start : start + counts[self.rank]]] * self.size
        return np.concatenate(rows), np.full(self.size, counts[self.rank])

    def broadcast(self, message: bytes) -> bytes:
        """Return `message`, as if it were rank 0's."""
        return message

    def abort(self, error: BaseException) -> None:
        """Do nothing: no rank waits."""

    def split(self, ranks: Sequence[int]) -> "FakeGroup":
        """Return the subgroup of `ranks`, where this rank keeps its place among them."""
        return FakeGroup(len(check_ranks(ranks, self)), list(ranks).index(self.rank))
