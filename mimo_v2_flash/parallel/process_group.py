"""Process group of processes on one machine or several: torch.distributed's gloo under torchrun.

Sums are added here in rank order, so that they equal those of `ThreadGroup` to the bit, whatever
the network does.
"""

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
from torch.distributed import DistError, PrefixStore, TCPStore

from mimo_v2_flash.json_object import shorten

from .consistency import RankError, check_counts, check_ranks, describe_collective
from .deadlock import PendingCollective
from .heartbeat import HeartbeatMonitor
from .launch import RunAddress
from .solo_group import SoloGroup
from .thread_group import sum_in_rank_order
from .transport import INLINE, Transport

__all__ = ["ProcessGroup", "join_process_group"]

INTERFACES = "GLOO_SOCKET_IFNAME"


class ProcessGroup:
    """Process group of some ranks of a run, where every rank is a process.

    `join_process_group` yields the group of all ranks.

    Parameters
    ----------
    transport
        The connections between the ranks.
    split
        Function from ranks of the run to their group.
    """

    def __init__(self, transport: Transport, split: Callable[[tuple[int, ...]], Any]) -> None:
        self.size, self.rank = len(transport.ranks), transport.index
        self._transport, self._split = transport, split

    def all_to_all(self, x_PMD: Any) -> Any:
        """Send row p to rank p; return the rows received, in rank order."""
        return np.stack(self._exchange_equal("all_to_all", x_PMD, list(x_PMD)))

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order."""
        return np.stack(self._exchange_equal("all_gather", x_ND, [x_ND] * self.size))

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Send row p to rank p; return the sum of the rows received."""
        return sum_in_rank_order(self._exchange_equal("reduce_scatter", x_PND, list(x_PND)))

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, added in rank order.

        A long `x` is summed in parts, one on each rank: a reduce-scatter and an all-gather.
        """
        if x.nbytes <= INLINE:
            return sum_in_rank_order(self._exchange_equal("all_reduce", x, [x] * self.size))
        collective = describe_collective("all_reduce", x)
        parts = np.array_split(np.ravel(x), self.size)
        local_sum = sum_in_rank_order(self._exchange(collective, parts))
        sums = self._exchange(collective, [local_sum] * self.size)
        return np.concatenate(sums).reshape(x.shape)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Send the next count_P[p] rows to rank p; return (rows received, their counts) by rank."""
        ends = np.cumsum(check_counts(x_ND, count_P, self.size))
        collective, row = describe_collective("ragged_all_to_all", x_ND), x_ND.shape[1:]
        received = self._exchange(collective, np.split(x_ND, ends[:-1]))
        rows = [part.reshape(-1, *row) for part in received]
        return np.concatenate(rows), np.array([len(part) for part in rows])

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's `message`."""
        sent = np.frombuffer(b"" if self.rank else message, np.uint8)
        received: bytes = self._exchange("broadcast", [sent] * self.size)[0].tobytes()
        return received

    def abort(self, error: BaseException) -> None:
        """Publish `error`: collectives raise RankError, and after some seconds every rank ends."""
        self._transport.abort(error)

    def split(self, ranks: Sequence[int]) -> Any:
        """Return the subgroup whose rank i is rank `ranks[i]` of this group."""
        world_ranks = tuple(self._transport.ranks[rank] for rank in check_ranks(ranks, self))
        return self._split(world_ranks)

    def _exchange_equal(self, name: str, x: Any, parts: Sequence[Any]) -> list[Any]:
        """Send `parts` of `x`, which have one shape, to the ranks; return what they sent."""
        received = self._exchange(describe_collective(name, x), parts)
        return [part.reshape(parts[0].shape) for part in received]

    def _exchange(self, collective: str, parts: Sequence[Any]) -> list[Any]:
        sent = [np.ravel(part).view(np.uint8) for part in parts]
        received = self._transport.exchange_bytes(collective, sent)
        return [part.view(parts[0].dtype) for part in received]


@contextmanager
def join_process_group(
    address: RunAddress, env: Mapping[str, str], *, start_timeout: float, heartbeat_timeout: int
) -> Iterator[ProcessGroup]:
    """Join the run at `address`, and shut its group down when all ranks are done.

    The parameters and errors are those of `init_process_group`.

    Parameters
    ----------
    address : RunAddress
        Rank, world size, and where ranks meet.
    env : mapping of str to str
        Variables of the process.
    start_timeout : float
        Seconds that ranks may take to meet.
    heartbeat_timeout : int
        Seconds of silence after which a rank is lost.
    """
    rank, size = address.rank, address.size
    _check_interfaces(env.get(INTERFACES, ""))
    store = _store(address, env, start_timeout)
    monitor = HeartbeatMonitor(store.clone(), rank, size, heartbeat_timeout=heartbeat_timeout)
    monitor.begin(start_timeout)
    transports: dict[tuple[int, ...], Transport] = {}
    atexit.register(_exit_at_once_if_waiting, monitor)

    def group(ranks: tuple[int, ...]) -> Any:
        if ranks == (rank,):
            return SoloGroup()
        if ranks not in transports:
            _rendezvous(store, ranks, monitor)
            transports[ranks] = _connect(store, ranks, monitor)
        return ProcessGroup(transports[ranks], group)

    try:
        yield group(tuple(range(size)))
        _shutdown(store, monitor)
        for transport in transports.values():
            transport.close()
    except BaseException as error:
        monitor.report_error(error)
        raise
    finally:
        monitor.end()


def _check_interfaces(names: str) -> None:
    """Raise ValueError unless this machine has the network interfaces that gloo is to use."""
    available = [name for _, name in socket.if_nameindex()]
    for name in names.split(",") if len(names) > 1 else ():  # as torch reads the variable
        if name not in available:
            raise ValueError(
                f"{INTERFACES} is {shorten(names)}, expected of the network interfaces of this "
                f"machine: {', '.join(available)}"
            )


def _store(address: RunAddress, env: Mapping[str, str], start_timeout: float) -> Any:
    """Return the store of the run, which torchrun or rank 0 hosts."""
    opened = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = not opened and address.rank == 0
    # torch's own errors take the whole time, and many lines.
    _check_host(address.host)
    _check_port(address.port) if is_host else _await_port(address, start_timeout)
    try:
        store = TCPStore(
            address.host,
            address.port,
            is_master=is_host,
            wait_for_workers=False,
            timeout=timedelta(seconds=start_timeout),
        )
    except DistError as unreachable:
        raise RankError(f"rank 0 has not started: {str(unreachable).splitlines()[0]}") from None
    return PrefixStore(f"run {env.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _check_host(host: str) -> None:
    """Raise ValueError if there is no host of this name."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        raise ValueError(f"MASTER_ADDR is {shorten(host)}, expected a host that is known") from None


def _check_port(port: int) -> None:
    """Raise ValueError if rank 0 cannot listen at `port`."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ValueError(f"MASTER_PORT is {port}, expected a free port: {reason}") from None


def _await_port(address: RunAddress, start_timeout: float) -> None:
    """Wait until rank 0 listens; RankError if it does not within `start_timeout` seconds."""
    deadline = time.monotonic() + start_timeout
    while not _listens(address):
        if time.monotonic() > deadline:
            raise RankError(
                f"rank 0 did not start within {start_timeout:g} s: nothing listens at MASTER_ADDR "
                f"{address.host}, MASTER_PORT {address.port}"
            )
        time.sleep(0.1)


def _listens(address: RunAddress) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=1).close()
    except OSError:
        return False
    return True


def _connect(store: Any, ranks: tuple[int, ...], monitor: HeartbeatMonitor) -> Transport:
    """Return the connections between `ranks`; RankError if the network cannot be used."""
    try:
        return Transport(store, ranks, monitor)
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise RankError(f"rank 0 is lost, which hosts the store: {reason}") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankError(
            f"rank {monitor.rank} cannot use the network: {reason} ({INTERFACES} names the "
            "interface to use)"
        ) from None


def _rendezvous(store: Any, ranks: tuple[int, ...], monitor: HeartbeatMonitor) -> None:
    """Wait until all of `ranks` split into the same group: gloo would wait for ever."""
    collective = f"split into {[*ranks]}"
    monitor.pending = PendingCollective(ranks, 0, collective)
    store.set(f"{collective} {monitor.rank}", "")
    while not store.check([f"{collective} {rank}" for rank in ranks]):
        monitor.check()
        time.sleep(0.01)
    monitor.pending = None


def _shutdown(store: Any, monitor: HeartbeatMonitor) -> None:
    """Wait until all ranks are done; rank 0, whose process may host the store, returns last."""
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


def _exit_at_once_if_waiting(monitor: HeartbeatMonitor) -> None:
    """Exit at once from a pending collective: gloo's destructor would wait for it for ever."""
    if monitor.pending:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
