"""One rank of many that are not there: every one of them would hold what this one holds.

For looking at what a rank does, where what it hears does not matter: no message is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .consistency import check_counts, check_ranks

__all__ = ["FakeGroup"]


@dataclass(frozen=True)
class FakeGroup:
    """A group whose ranks all bring the same to every exchange.

    Parameters
    ----------
    size
        How many ranks, of which this one stands for all.
    rank
        Which of them it is.
    """

    size: int
    rank: int = 0

    def all_to_all(self, x_PMD: Any) -> Any:
        """Return our own row of `x_PMD`, which every rank gives us."""
        return np.broadcast_to(x_PMD[self.rank], x_PMD.shape)

    def all_gather(self, x_ND: Any) -> Any:
        """Return `x_ND` from every rank."""
        return np.broadcast_to(x_ND, (self.size, *x_ND.shape))

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Return our own row of `x_PND`, from every rank and added."""
        return self.all_reduce(x_PND[self.rank])

    def all_reduce(self, x: Any) -> Any:
        """Return `x` of every rank, added."""
        return x * x.dtype.type(self.size)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Return our own rows from every rank, and their counts."""
        counts = check_counts(x_ND, count_P, self.size)
        start = sum(counts[: self.rank])
        rows = [x_ND[start : start + counts[self.rank]]] * self.size
        return np.concatenate(rows), np.full(self.size, counts[self.rank])

    def split(self, ranks: Sequence[int]) -> "FakeGroup":
        """Return the group of `ranks`, where we have our place among them."""
        return FakeGroup(len(check_ranks(ranks, self)), list(ranks).index(self.rank))
