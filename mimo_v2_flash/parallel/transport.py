"""Messages between processes: bytes of any length from every rank to every rank, over gloo.

One collective does everything: all_to_all of bytes. gloo's others know no bfloat16 sums, or add in
an order of their own. What gloo does not check is checked here: an exchange of another kind or
shape would leave garbage, or end the process (`gloo::EnforceNotMet`).
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

INLINE = 64 * 1024  # bytes: messages up to here travel with their heads
_HEAD = struct.Struct("240sqq")  # what is called, this message's length, the sender's longest
_FOR_EVER, _A_WHILE = timedelta(days=30), timedelta(seconds=1)


class Transport:
    """The connections of some ranks of a run.

    Parameters
    ----------
    store
        torch's store, where the ranks find each other.
    ranks
        Their numbers in the run; our place among them is `ranks.index(monitor.rank)`.
    watch
        Knows who is lost.
    """

    def __init__(self, store: Any, ranks: Sequence[int], monitor: HeartbeatMonitor) -> None:
        self.ranks, self.index = tuple(ranks), ranks.index(monitor.rank)
        self._turn = 0
        self._monitor = monitor
        here = PrefixStore(f"gloo {self.ranks}", store)
        self._gloo: Any = ProcessGroupGloo(here, self.index, len(ranks), _FOR_EVER)

    def close(self) -> None:
        """Let go of the network while its threads can end: later they abort the process."""
        self._gloo = None

    def exchange_bytes(self, what: str, messages: Sequence[Any]) -> list[Any]:
        """Send message p to rank p; return what every rank sent us, all as flat uint8 arrays.

        A receiver makes room for `INLINE` bytes and gloo delivers what was sent, if it is less:
        so heads and short messages need one round, and longer ones a second.

        Raises
        ------
        RankError
            If a rank is lost, has returned, or calls something else.
        """
        if self._gloo is None:
            raise RankError(f"{what}: the run has ended")
        self._turn += 1
        lengths = [message.size for message in messages]
        longest, nothing = max(lengths), [message[:0] for message in messages]
        heads = [_HEAD.pack(what.encode(), length, longest) for length in lengths]
        inline = messages if longest <= INLINE else nothing
        first = self._round(
            what,
            [np.append(np.frombuffer(h, np.uint8), m) for h, m in zip(heads, inline, strict=True)],
            [_HEAD.size + INLINE] * len(messages),
        )
        said, sizes, longests = zip(
            *(_HEAD.unpack(part[: _HEAD.size]) for part in first), strict=True
        )
        check_same_collective([text.rstrip(b"\0").decode() for text in said], self.ranks)
        late = [longest > INLINE for longest in longests]
        got = [part[_HEAD.size :][:size] for part, size in zip(first, sizes, strict=True)]
        if any(late):
            mine = messages if late[self.index] else nothing
            rest = self._round(what, mine, list(np.multiply(sizes, late)))
            got = [rest[rank] if late[rank] else got[rank] for rank in range(len(got))]
        return got

    def _round(self, what: str, messages: Sequence[Any], room: list[int]) -> list[Any]:
        others = [rank for rank in range(len(messages)) if rank != self.index]
        sent = [0 if rank == self.index else message.size for rank, message in enumerate(messages)]
        room[self.index] = 0
        out = np.concatenate([messages[rank] for rank in others])
        got = torch.empty(sum(room), dtype=torch.uint8)
        self._wait(what, self._gloo.alltoall_base(got, torch.from_numpy(out), room, sent))
        parts = np.split(got.numpy(), np.cumsum(room)[:-1])
        return [messages[r] if r == self.index else part for r, part in enumerate(parts)]

    def _wait(self, what: str, work: Any) -> None:
        """Wait as long as it takes; gloo hears of a lost rank only if its connection breaks."""
        self._monitor.at = PendingCollective(self.ranks, self._turn, what)
        while True:
            completed = work.is_completed()
            self._monitor.check()
            try:
                work.wait(_A_WHILE)
                break
            except RuntimeError as broken:
                if completed:
                    self._monitor.at = None
                    raise self._monitor.explain(what, broken) from None
        self._monitor.at = None
