"""Ranks as processes, on one machine or several: torch.distributed's gloo, started by torchrun.

Sums are added here in rank order, so that they are those of `ThreadGroup` to the bit, whatever the
network does.
"""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
from torch.distributed import DistError, PrefixStore, TCPStore

from .consistency import RankError, check_counts, check_ranks, describe_collective
from .deadlock import PendingCollective
from .heartbeat import HeartbeatMonitor
from .solo_group import SoloGroup
from .thread_group import sum_in_rank_order
from .transport import INLINE, Transport

__all__ = ["ProcessGroup", "join_process_group"]


class ProcessGroup:
    """Some ranks of a run, of which this process is one; `join_process_group` gives the group of all.

    Parameters
    ----------
    wire
        The connections between them.
    split
        From ranks of the run to the group of these.
    """

    def __init__(self, transport: Transport, split: Callable[[tuple[int, ...]], Any]) -> None:
        self.size, self.rank = len(transport.ranks), transport.index
        self._transport, self._split = transport, split

    def all_to_all(self, x_PMD: Any) -> Any:
        """Give row p to rank p; return the rows that the ranks gave us, in rank order."""
        return np.stack(self._rows("all_to_all", x_PMD))

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order."""
        return np.stack(self._everyone_s("all_gather", x_ND))

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Give row p to rank p; return the sum of the rows that the ranks gave us."""
        return sum_in_rank_order(self._rows("reduce_scatter", x_PND))

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, added in rank order.

        What is long is summed in parts, one on each rank.
        """
        if x.nbytes <= INLINE:
            return sum_in_rank_order(self._everyone_s("all_reduce", x))
        what, parts = describe_collective("all_reduce", x), np.array_split(np.ravel(x), self.size)
        own = sum_in_rank_order(self._swapped(what, parts))
        return np.concatenate(self._swapped(what, [own] * self.size)).reshape(x.shape)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Give the next count_P[p] rows to rank p; return (rows, their counts) by rank."""
        ends = np.cumsum(check_counts(x_ND, count_P, self.size))
        what, row = describe_collective("ragged_all_to_all", x_ND), x_ND.shape[1:]
        got = [part.reshape(-1, *row) for part in self._swapped(what, np.split(x_ND, ends[:-1]))]
        return np.concatenate(got), np.array([len(part) for part in got])

    def split(self, ranks: Sequence[int]) -> Any:
        """Return the group whose rank i is our rank `ranks[i]`."""
        chosen = tuple(self._transport.ranks[rank] for rank in check_ranks(ranks, self))
        return self._split(chosen)

    def _rows(self, exchange: str, x_PMD: Any) -> list[Any]:
        got = self._swapped(describe_collective(exchange, x_PMD), list(x_PMD))
        return [part.reshape(x_PMD.shape[1:]) for part in got]

    def _everyone_s(self, exchange: str, x: Any) -> list[Any]:
        got = self._swapped(describe_collective(exchange, x), [x] * self.size)
        return [part.reshape(x.shape) for part in got]

    def _swapped(self, what: str, parts: Sequence[Any]) -> list[Any]:
        sent = [np.ravel(part).view(np.uint8) for part in parts]
        return [part.view(parts[0].dtype) for part in self._transport.exchange_bytes(what, sent)]


@contextmanager
def join_process_group(
    variables: Mapping[str, str], *, patience: float, silence: int
) -> Iterator[ProcessGroup]:
    """Join the run that `variables` describe, and leave it when all are done.

    The parameters and errors are those of `init_process_group`.
    """
    rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    store = _store(variables, patience)
    monitor = HeartbeatMonitor(store.clone(), rank, size, silence=silence)
    monitor.begin(patience)
    transports: dict[tuple[int, ...], Transport] = {}
    atexit.register(_leave_at_once_if_waiting, monitor)

    def group(ranks: tuple[int, ...]) -> Any:
        if ranks == (rank,):
            return SoloGroup()
        if ranks not in transports:
            _rendezvous(store, ranks, monitor)
            transports[ranks] = Transport(store, ranks, monitor)
        return ProcessGroup(transports[ranks], group)

    try:
        yield group(tuple(range(size)))
        _shutdown(store, monitor)
        for transport in transports.values():
            transport.close()
    except BaseException as error:
        monitor.raised(error)
        raise
    finally:
        monitor.end()


def _store(variables: Mapping[str, str], patience: float) -> Any:
    """Return the run's store, which torchrun has opened, or rank 0 opens now."""
    opened = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    try:
        store = TCPStore(
            *address,
            is_master=not opened and variables["RANK"] == "0",
            wait_for_workers=False,
            timeout=timedelta(seconds=patience),
        )
    except DistError as nobody:
        raise RankError(f"rank 0 has not started: {str(nobody).splitlines()[0]}") from None
    return PrefixStore(f"run {variables.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _rendezvous(store: Any, ranks: tuple[int, ...], monitor: HeartbeatMonitor) -> None:
    """Wait until all of `ranks` split into the same group: gloo would wait beyond hope."""
    what = f"split into {[*ranks]}"
    monitor.at = PendingCollective(ranks, 0, what)
    store.set(f"{what} {monitor.rank}", "")
    while not store.check([f"{what} {rank}" for rank in ranks]):
        monitor.check()
        time.sleep(0.01)
    monitor.at = None


def _shutdown(store: Any, monitor: HeartbeatMonitor) -> None:
    """Leave together; rank 0, whose process may hold the store, last."""
    monitor.leave()
    store.add("finished", 1)
    while store.add("finished", 0) < monitor.size:
        monitor.check()
        time.sleep(0.02)
    monitor.end()
    gone, deadline = store.add("gone", 1), time.monotonic() + 10
    while monitor.rank == 0 and gone < monitor.size and time.monotonic() < deadline:
        time.sleep(0.02)
        gone = store.add("gone", 0)


def _leave_at_once_if_waiting(monitor: HeartbeatMonitor) -> None:
    """End without waiting for exchanges that will never end, as gloo's destructor does."""
    if monitor.at:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
