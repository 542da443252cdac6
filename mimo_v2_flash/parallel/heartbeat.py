"""Signs of life: every rank beats once a second, and learns within seconds who is lost and why.

A thread beats, not the program: a rank that computes for an hour, or waits for one that does,
still beats. Silence is counted in our own beats and not in seconds, so that a machine that slept
does not take everybody for lost.
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

_BEAT, _GRACE = 1.0, 5.0  # seconds between beats; to leave by oneself, once somebody is lost
_STILL = 3  # beats without any movement, before a standstill is one


class HeartbeatMonitor:
    """The ranks of a run, watched through a store that all of them reach.

    Parameters
    ----------
    store
        torch's store, a connection of the watch's own.
    rank, size
        Which rank we are, of how many.
    silence
        After how many beats without a sign a rank is lost.

    Attributes
    ----------
    at
        Where the program waits for other ranks, if it does.
    """

    def __init__(self, store: Any, rank: int, size: int, *, silence: int) -> None:
        self.rank, self.size = rank, size
        self.at: PendingCollective | None = None
        self._left = False
        self._store, self._silence = store, silence
        self._beats, self._still = 0, 0
        self._known: list[dict[str, Any]] = [{"at": None}] * size
        self._missed = [0] * size
        self._cause = ""
        self._over, self._told = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def begin(self, patience: float) -> None:
        """Wait until all ranks are here, and beat from now on.

        Raises
        ------
        RankError
            Who did not come within `patience` seconds of the last one who did.
        """
        self._store.compare_set("cause", "", "null")
        self._sign()
        present, last = self._store.add("present", 1), time.monotonic()
        while present < self.size:
            if time.monotonic() - last > patience:
                absent = [r for r in range(self.size) if not self._store.check([f"beat {r}"])]
                raise RankError(
                    f"{format_ranks(absent)} did not start within {patience:g} s of the others"
                )
            time.sleep(0.05)
            if (now := self._store.add("present", 0)) > present:
                present, last = now, time.monotonic()
        self._thread.start()

    def leave(self) -> None:
        """Say that this rank exchanges no more."""
        self._left = True
        self._sign()

    def end(self) -> None:
        """Beat no more."""
        self._over.set()
        self._thread.join()

    def raised(self, error: BaseException) -> None:
        """Say why this rank cannot go on, and stay until all have heard; the first cause stands."""
        if not self._cause:
            with suppress(RuntimeError):  # of a store that has gone before us
                what = f"{type(error).__name__}: {error}".rstrip(": ")
                self._accuse([self.rank], f"rank {self.rank} raised {what}")
        time.sleep(2.5 * _BEAT)

    def check(self) -> None:
        """Raise if the run cannot go on.

        Raises
        ------
        RankError
            Who is lost, and why.
        """
        if self._cause:
            raise RankError(self._cause)

    def explain(self, what: str, broken: Exception) -> RankError:
        """Return why the network broke in the middle of `what`: whoever is lost, once known."""
        self._told.wait((self._silence + 2) * _BEAT)
        return RankError(self._cause or f"rank {self.rank}: {what} broke: {broken}")

    def beat(self) -> None:
        """Give a sign of life, and look for those of the others."""
        try:
            self._sign()
            self._look()
        except RuntimeError as gone:
            self._learn([0], f"rank 0 or its launcher has ended: {str(gone).splitlines()[0]}")

    def _run(self) -> None:
        while not self._cause and not self._over.wait(_BEAT):
            self.beat()
        if self._cause and not self._over.wait(_GRACE):
            logging.getLogger(__name__).critical("rank %d ends: %s", self.rank, self._cause)
            os._exit(1)  # the program does not come out of its exchange, or of its computing

    def _sign(self) -> None:
        self._beats += 1
        sign = {"beat": self._beats, "at": self.at, "left": self._left}
        self._store.set(f"beat {self.rank}", json.dumps(sign))

    def _look(self) -> None:
        keys = ["cause", *(f"beat {rank}" for rank in range(self.size))]
        cause, *beats = map(json.loads, self._store.multi_get(keys))
        before, self._known = self._known, beats
        self._missed = [
            missed + 1 if old == new else 0
            for missed, old, new in zip(self._missed, before, beats, strict=True)
        ]
        moved = [old["at"] for old in before] != [new["at"] for new in beats]
        self._still = 0 if moved else self._still + 1
        lost = [rank for rank, missed in enumerate(self._missed) if missed >= self._silence]
        if cause:
            self._learn(**cause)
        elif lost:
            seconds = round(self._silence * _BEAT)
            self._accuse(
                lost,
                f"{format_ranks(lost)} gave no sign of life for {seconds} s: killed, or cut off",
            )
        elif self._still >= _STILL and (why := self._describe_deadlock()):
            self._accuse([], why)

    def _describe_deadlock(self) -> str:
        at = {rank: beat["at"] for rank, beat in enumerate(self._known)}
        waiting = {
            r: PendingCollective(tuple(here[0]), *here[1:]) for r, here in at.items() if here
        }
        left = [rank for rank, beat in enumerate(self._known) if beat["left"]]
        return describe_deadlock(waiting, left, self.size)

    def _accuse(self, ranks: Sequence[int], text: str) -> None:
        said = json.dumps({"ranks": ranks, "text": text})
        first = self._store.compare_set("cause", "null", said).decode()
        self._learn(**json.loads(first), by_us=first == said)

    def _learn(self, ranks: list[int], text: str, *, by_us: bool = False) -> None:
        if not self._cause:
            self._cause = text
            self._told.set()
            if by_us or self.rank == min({*range(self.size)} - {*ranks}, default=0):
                logging.getLogger(__name__).critical(text)
