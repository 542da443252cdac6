"""What ranks say to each other, counted: calls, bytes and seconds of each exchange."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .group import HostGroup

__all__ = ["CollectiveStats", "InstrumentedGroup"]


@dataclass
class CollectiveStats:
    """One kind of exchange so far, on this rank.

    Parameters
    ----------
    calls
        How often.
    sent
        Bytes that left for other ranks: what this rank gave, without heads and its own part.
    seconds
        In the exchange, waiting for others included.
    """

    calls: int = 0
    sent: int = 0
    seconds: float = 0.0


class InstrumentedGroup:
    """Another group, counted at its boundary.

    Parameters
    ----------
    group
        The group that exchanges; on threads, one CountedGroup for each rank.

    Attributes
    ----------
    tallies
        By the name of the exchange.
    """

    def __init__(self, group: HostGroup) -> None:
        self.size, self.rank = group.size, group.rank
        self.stats: defaultdict[str, CollectiveStats] = defaultdict(CollectiveStats)
        self._group = group

    def all_to_all(self, x_PMD: Any) -> Any:
        """Give row p to rank p; a row stays here."""
        return self._counted(self._group.all_to_all, x_PMD.nbytes / self.size, x_PMD)

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`; ours goes to each of the others."""
        return self._counted(self._group.all_gather, x_ND.nbytes, x_ND)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Give row p to rank p, and sum; a row stays here."""
        return self._counted(self._group.reduce_scatter, x_PND.nbytes / self.size, x_PND)

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, as sent in parts: a P-th to each rank, twice."""
        return self._counted(self._group.all_reduce, 2 * x.nbytes / self.size, x)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Give the next count_P[p] rows to rank p; ours stay here."""
        start = time.perf_counter()
        answer = self._group.ragged_all_to_all(x_ND, count_P)
        rows = x_ND.shape[0] - int(count_P[self.rank])
        self._note("ragged_all_to_all", rows * x_ND[:1].nbytes, start)
        return answer

    def split(self, ranks: Sequence[int]) -> "InstrumentedGroup":
        """Return the group of `ranks`, counted by itself."""
        return InstrumentedGroup(self._group.split(ranks))

    def _counted(self, exchange: Callable[[Any], Any], sent_to_each: float, x: Any) -> Any:
        start = time.perf_counter()
        answer = exchange(x)
        self._note(exchange.__name__, round(sent_to_each * (self.size - 1)), start)
        return answer

    def _note(self, exchange: str, sent: int, start: float) -> None:
        stats = self.stats[exchange]
        stats.calls += 1
        stats.sent += sent
        stats.seconds += time.perf_counter() - start
