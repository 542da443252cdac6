"""Byte transport between processes: messages of any length from every rank to every rank.

All messages go through one collective of gloo, all_to_all of bytes: gloo's other collectives do not
sum bfloat16, or add in an order of their own. gloo does not check that ranks call the same
collective with the same shape: a mismatch would return garbage or abort the process
(`gloo::EnforceNotMet`). So this module checks it.
"""

import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.distributed import PrefixStore, ProcessGroupGloo

from .consistency import RankError, check_same_collective
from .deadlock import PendingCollective
from .heartbeat import HeartbeatMonitor

__all__ = ["INLINE", "Transport"]

INLINE = 64 * 1024  # bytes: messages up to this length travel with their headers
_HEADER = struct.Struct("240sqq")  # collective, this message's length, the sender's longest
_FOREVER, _POLL = timedelta(days=30), timedelta(seconds=1)


class Transport:
    """The gloo connections between some ranks of a run.

    Parameters
    ----------
    store
        torch's store, through which the ranks connect.
    ranks
        Their numbers in the run, the rank of `monitor` among them.
    monitor
        Reports lost ranks.
    """

    def __init__(self, store: Any, ranks: Sequence[int], monitor: HeartbeatMonitor) -> None:
        self.ranks, self.index = tuple(ranks), ranks.index(monitor.rank)
        self._sequence = 0
        self._monitor = monitor
        prefixed = PrefixStore(f"gloo {self.ranks}", store)
        self._gloo: Any = ProcessGroupGloo(prefixed, self.index, len(ranks), _FOREVER)

    def close(self) -> None:
        """Close the connections while gloo's threads can end: later they abort the process."""
        self._gloo = None

    def abort(self, error: BaseException) -> None:
        """Publish the error of this rank, with which the run ends."""
        self._monitor.publish_error(error)

    def exchange_bytes(self, collective: str, messages: Sequence[Any]) -> list[Any]:
        """Send message p to rank p; return the messages received, all as flat uint8 arrays.

        A receiver allocates `INLINE` bytes and gloo delivers what was sent, if it is less: so
        headers and short messages need one round, and longer ones a second.

        Raises
        ------
        RankError
            If a rank is lost, has returned, or calls another collective.
        """
        if self._gloo is None:
            raise RankError(f"{collective}: the process group has been shut down")
        self._sequence += 1
        lengths = [message.size for message in messages]
        longest, empty = max(lengths), [message[:0] for message in messages]
        headers = [_HEADER.pack(collective.encode(), length, longest) for length in lengths]
        inline = messages if longest <= INLINE else empty
        first = self._round(
            collective,
            [
                np.append(np.frombuffer(h, np.uint8), m)
                for h, m in zip(headers, inline, strict=True)
            ],
            [_HEADER.size + INLINE] * len(messages),
        )
        collectives, sizes, longests = zip(
            *(_HEADER.unpack(part[: _HEADER.size]) for part in first), strict=True
        )
        check_same_collective([text.rstrip(b"\0").decode() for text in collectives], self.ranks)
        late = [longest > INLINE for longest in longests]
        received = [part[_HEADER.size :][:size] for part, size in zip(first, sizes, strict=True)]
        if any(late):
            sent = messages if late[self.index] else empty
            second = self._round(collective, sent, list(np.multiply(sizes, late)))
            received = [second[r] if late[r] else received[r] for r in range(len(received))]
        return received

    def _round(self, collective: str, messages: Sequence[Any], capacity: list[int]) -> list[Any]:
        """Send message p to rank p; receive up to `capacity[p]` bytes from it."""
        others = [rank for rank in range(len(messages)) if rank != self.index]
        sent = [0 if rank == self.index else message.size for rank, message in enumerate(messages)]
        capacity[self.index] = 0
        out = np.concatenate([messages[rank] for rank in others])
        received = torch.empty(sum(capacity), dtype=torch.uint8)
        work = self._gloo.alltoall_base(received, torch.from_numpy(out), capacity, sent)
        self._wait(collective, work)
        parts = np.split(received.numpy(), np.cumsum(capacity)[:-1])
        return [messages[r] if r == self.index else part for r, part in enumerate(parts)]

    def _wait(self, collective: str, work: Any) -> None:
        """Wait without a timeout; gloo notices a lost rank only if its connection breaks."""
        self._monitor.pending = PendingCollective(self.ranks, self._sequence, collective)
        while True:
            completed = work.is_completed()
            self._monitor.check()
            try:
                work.wait(_POLL)
                break
            except RuntimeError as broken:
                if completed:
                    self._monitor.pending = None
                    raise self._monitor.explain(collective, broken) from None
        self._monitor.pending = None
