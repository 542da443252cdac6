"""Rendezvous of threads: where they exchange values, and learn of failures and deadlocks."""

import threading
from collections.abc import Callable
from typing import Any

from .consistency import RankError, check_same_collective
from .deadlock import PendingCollective, describe_deadlock

__all__ = ["ReleasedError", "Rendezvous", "ThreadWorld"]


class ReleasedError(RankError):
    """Error of a rank that was released from a collective because another rank failed."""


class ThreadWorld:
    """State of a run of threads: who waits in which rendezvous, who has returned, what failed.

    When every rank waits or has returned, the waiting ones are in deadlock and get a `RankError`.
    No timeout is involved.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()
        self.current = threading.local()
        self.rendezvous_points: dict[tuple[int, ...], Rendezvous] = {}
        self.waiting: dict[int, PendingCollective] = {}
        self.left: set[int] = set()
        self.failure: RankError | None = None

    def rendezvous(self, ranks: tuple[int, ...]) -> "Rendezvous":
        """Return the rendezvous of these ranks, the same one for each of them."""
        with self.lock:
            return self.rendezvous_points.setdefault(ranks, Rendezvous(self, ranks))

    def begin(self) -> None:
        """Forget the last run."""
        self.waiting.clear()
        self.left.clear()
        self.failure = None
        for rendezvous in self.rendezvous_points.values():
            rendezvous.reset()

    def leave(self, rank: int) -> None:
        """Record that `rank` has returned."""
        with self.lock:
            self.left.add(rank)
            self.check_deadlock()

    def fail(self, rank: int, error: BaseException) -> None:
        """Record that `rank` raised `error`, and release all ranks that wait."""
        with self.lock:
            self._release(ReleasedError(f"rank {rank} raised {type(error).__name__}: {error}"))

    def check_deadlock(self) -> None:
        """Release all ranks if none of them can go on."""
        if deadlock := describe_deadlock(self.waiting, self.left, self.size):
            self._release(RankError(deadlock))

    def _release(self, failure: RankError) -> None:
        self.failure = self.failure or failure
        for rendezvous in self.rendezvous_points.values():
            rendezvous.changed.notify_all()


class Rendezvous:
    """Reusable barrier of some ranks at which each contributes a value and sees all values."""

    def __init__(self, world: ThreadWorld, ranks: tuple[int, ...]) -> None:
        self.world = world
        self.ranks = ranks
        self.arrived = 0
        self.changed = threading.Condition(world.lock)
        self._round = 0
        self._values: list[Any] = [None] * len(ranks)
        self._collectives = [""] * len(ranks)

    @property
    def index(self) -> int:
        """Index of the calling thread's rank among `ranks`."""
        return self.ranks.index(self.world.current.rank)

    def exchange(self, collective: str, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Return `combine` of the values of all ranks, in rank order.

        No rank returns before every rank has combined: ranks may then overwrite their values.

        Parameters
        ----------
        collective : str
            Name of the collective, and what must be equal on all ranks.
        value : object
            This rank's value.
        combine : callable
            Function of the values of all ranks.
        """
        self._values[self.index], self._collectives[self.index] = value, collective
        self._wait(collective)
        check_same_collective(self._collectives, self.ranks)
        output = combine(self._values)
        self._wait(collective)
        self._values[self.index] = None  # the array may be large, and its owner done with it
        return output

    def reset(self) -> None:
        """Forget a run that failed, and the values that it left."""
        self.arrived, self._values = 0, [None] * len(self.ranks)

    def _wait(self, collective: str) -> None:
        with self.changed:
            this_round, waiting = self._round, self.world.waiting
            pending = PendingCollective(self.ranks, this_round, collective)
            waiting[self.world.current.rank] = pending
            self.arrived += 1
            if self.arrived == len(self.ranks) and not self.world.failure:
                self.arrived, self._round = 0, this_round + 1
                for rank in self.ranks:
                    del waiting[rank]
                self.changed.notify_all()
                return
            self.world.check_deadlock()
            self.changed.wait_for(lambda: self._round > this_round or self.world.failure)
            if self._round == this_round:
                raise self.world.failure or AssertionError
