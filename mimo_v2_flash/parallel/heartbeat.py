"""Heartbeats: each rank writes one per second to a shared store, and learns who is lost and why.

A thread of its own writes them: a rank that computes for an hour, or waits for one that does, still
has a heartbeat. Silence is counted in this rank's own heartbeats, not in seconds, so that a machine
that was suspended does not take all other ranks for lost.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .consistency import RankError, format_ranks
from .deadlock import PendingCollective, describe_deadlock

__all__ = ["HeartbeatMonitor"]

_BEAT, _GRACE = 1.0, 5.0  # seconds between heartbeats; to exit normally once a rank is lost
_STILL = 3  # heartbeats without progress of any rank before a deadlock is reported


class HeartbeatMonitor:
    """Monitor of all ranks of a run, through a store that all of them reach.

    Parameters
    ----------
    store
        torch's store, a connection that nothing else uses.
    rank, size
        Number of this rank, and number of ranks.
    heartbeat_timeout
        After how many heartbeats of this rank, without one of another rank, that rank is lost.

    Attributes
    ----------
    pending
        The collective in which this rank waits, if it does.
    """

    def __init__(self, store: Any, rank: int, size: int, *, heartbeat_timeout: int) -> None:
        self.rank, self.size = rank, size
        self.pending: PendingCollective | None = None
        self._left = False
        self._store, self._heartbeat_timeout = store, heartbeat_timeout
        self._beats, self._still = 0, 0
        self._heartbeats: list[dict[str, Any]] = [{"at": None}] * size
        self._missed = [0] * size
        self._cause = ""
        self._stopped, self._failed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def begin(self, start_timeout: float) -> None:
        """Wait until all ranks have started, and start the heartbeat thread.

        Raises
        ------
        RankError
            If ranks do not start within `start_timeout` seconds of the last one that did.
        """
        self._store.compare_set("cause", "", "null")
        self._write()
        present, last = self._store.add("present", 1), time.monotonic()
        while present < self.size:
            if time.monotonic() - last > start_timeout:
                absent = [r for r in range(self.size) if not self._store.check([f"beat {r}"])]
                raise RankError(
                    f"{format_ranks(absent)} did not start within {start_timeout:g} s of the others"
                )
            time.sleep(0.05)
            if (now := self._store.add("present", 0)) > present:
                present, last = now, time.monotonic()
        self._thread.start()

    def leave(self) -> None:
        """Announce that this rank calls no more collectives."""
        self._left = True
        self._write()

    def end(self) -> None:
        """Stop the heartbeat thread."""
        self._stopped.set()
        self._thread.join()

    def report_error(self, error: BaseException) -> None:
        """Publish the error of this rank, unless another cause is known; wait until all have it."""
        self.publish_error(error)
        time.sleep(2.5 * _BEAT)

    def publish_error(self, error: BaseException) -> None:
        """Publish the error of this rank, unless another cause is known."""
        if not self._cause:
            with suppress(RuntimeError):  # the store may have ended before this rank
                description = f"{type(error).__name__}: {error}".rstrip(": ")
                self._publish([self.rank], f"rank {self.rank} raised {description}")

    def check(self) -> None:
        """Raise if the run cannot go on.

        Raises
        ------
        RankError
            If ranks are lost, have failed, or are in deadlock. The message names them and why.
        """
        if self._cause:
            raise RankError(self._cause)

    def explain(self, collective: str, broken: Exception) -> RankError:
        """Return why the network broke in `collective`: the lost rank, once it is known."""
        self._failed.wait((self._heartbeat_timeout + 2) * _BEAT)
        return RankError(self._cause or f"rank {self.rank}: {collective} failed: {broken}")

    def beat(self) -> None:
        """Write a heartbeat, and read those of all ranks."""
        try:
            self._write()
            self._read()
        except RuntimeError as gone:
            self._fail([0], f"rank 0 or its launcher has ended: {str(gone).splitlines()[0]}")

    def _run(self) -> None:
        while not self._cause and not self._stopped.wait(_BEAT):
            self.beat()
        if self._cause and not self._stopped.wait(_GRACE):
            logging.getLogger(__name__).critical("rank %d ends: %s", self.rank, self._cause)
            os._exit(1)  # the main thread does not return from its collective or its computation

    def _write(self) -> None:
        self._beats += 1
        heartbeat = {"beat": self._beats, "at": self.pending, "left": self._left}
        self._store.set(f"beat {self.rank}", json.dumps(heartbeat))

    def _read(self) -> None:
        keys = ["cause", *(f"beat {rank}" for rank in range(self.size))]
        cause, *heartbeats = map(json.loads, self._store.multi_get(keys))
        before, self._heartbeats = self._heartbeats, heartbeats
        self._missed = [
            missed + 1 if old == new else 0
            for missed, old, new in zip(self._missed, before, heartbeats, strict=True)
        ]
        moved = [old["at"] for old in before] != [new["at"] for new in heartbeats]
        self._still = 0 if moved else self._still + 1
        lost = [
            rank for rank, missed in enumerate(self._missed) if missed >= self._heartbeat_timeout
        ]
        if cause:
            self._fail(**cause)
        elif lost:
            seconds = round(self._heartbeat_timeout * _BEAT)
            self._publish(
                lost, f"{format_ranks(lost)} sent no heartbeat for {seconds} s: killed, or cut off"
            )
        elif self._still >= _STILL and (deadlock := self._describe_deadlock()):
            self._publish([], deadlock)

    def _describe_deadlock(self) -> str:
        waiting = {
            rank: PendingCollective(tuple(pending[0]), *pending[1:])
            for rank, heartbeat in enumerate(self._heartbeats)
            if (pending := heartbeat["at"])
        }
        left = [rank for rank, heartbeat in enumerate(self._heartbeats) if heartbeat["left"]]
        return describe_deadlock(waiting, left, self.size)

    def _publish(self, ranks: Sequence[int], text: str) -> None:
        """Publish why `ranks` fail; of several causes the first one in the store holds."""
        cause = json.dumps({"ranks": ranks, "text": text})
        first = self._store.compare_set("cause", "null", cause).decode()
        self._fail(**json.loads(first), by_us=first == cause)

    def _fail(self, ranks: list[int], text: str, *, by_us: bool = False) -> None:
        if not self._cause:
            self._cause = text
            self._failed.set()
            if by_us or self.rank == min({*range(self.size)} - {*ranks}, default=0):
                logging.getLogger(__name__).critical(text)
