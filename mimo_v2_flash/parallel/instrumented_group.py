"""Process group that counts calls, bytes sent and seconds of every collective."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .group import HostGroup

__all__ = ["CollectiveStats", "InstrumentedGroup"]


@dataclass
class CollectiveStats:
    """Statistics of one kind of collective on this rank.

    Parameters
    ----------
    calls
        Number of calls.
    sent
        Payload bytes sent to other ranks, without headers; what a rank keeps does not count.
    seconds
        Seconds spent in the calls, waiting for other ranks included.
    """

    calls: int = 0
    sent: int = 0
    seconds: float = 0.0


class InstrumentedGroup:
    """Wrapper of a process group that keeps statistics of its collectives.

    Parameters
    ----------
    group
        The group that communicates. On a `ThreadGroup`, every rank makes its own wrapper.

    Attributes
    ----------
    stats
        Statistics by the name of the collective.
    """

    def __init__(self, group: HostGroup) -> None:
        self.size, self.rank = group.size, group.rank
        self.stats: defaultdict[str, CollectiveStats] = defaultdict(CollectiveStats)
        self._group = group

    def all_to_all(self, x_PMD: Any) -> Any:
        """Send row p to rank p; the rows for other ranks count."""
        return self._measure(self._group.all_to_all, x_PMD.nbytes / self.size, x_PMD)

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`; this rank's counts once for each other rank."""
        return self._measure(self._group.all_gather, x_ND.nbytes, x_ND)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Send row p to rank p, and sum; the rows for other ranks count."""
        return self._measure(self._group.reduce_scatter, x_PND.nbytes / self.size, x_PND)

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`; 2 (P - 1) / P of its bytes count.

        This is what a reduce-scatter and an all-gather send.
        """
        return self._measure(self._group.all_reduce, 2 * x.nbytes / self.size, x)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Send the next count_P[p] rows to rank p; rows that this rank keeps do not count."""
        start = time.perf_counter()
        received = self._group.ragged_all_to_all(x_ND, count_P)
        rows = x_ND.shape[0] - int(count_P[self.rank])
        self._record("ragged_all_to_all", rows * x_ND[:1].nbytes, start)
        return received

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's `message`, which counts once for each other rank, there alone."""
        start = time.perf_counter()
        received = self._group.broadcast(message)
        self._record("broadcast", 0 if self.rank else len(message) * (self.size - 1), start)
        return received

    def abort(self, error: BaseException) -> None:
        """Abort the group."""
        self._group.abort(error)

    def split(self, ranks: Sequence[int]) -> "InstrumentedGroup":
        """Return the subgroup of `ranks`, with statistics of its own."""
        return InstrumentedGroup(self._group.split(ranks))

    def _measure(self, collective: Callable[[Any], Any], sent_to_each: float, x: Any) -> Any:
        start = time.perf_counter()
        output = collective(x)
        self._record(collective.__name__, round(sent_to_each * (self.size - 1)), start)
        return output

    def _record(self, name: str, sent: int, start: float) -> None:
        stats = self.stats[name]
        stats.calls += 1
        stats.sent += sent
        stats.seconds += time.perf_counter() - start
