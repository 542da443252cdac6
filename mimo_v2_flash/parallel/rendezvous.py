"""Where threads meet to exchange, and how they learn that somebody will not come."""

import threading
from collections.abc import Callable
from typing import Any

from .consistency import RankError, check_same_collective
from .deadlock import PendingCollective, describe_deadlock

__all__ = ["ReleasedError", "Rendezvous", "ThreadWorld"]


class ReleasedError(RankError):
    """Another rank failed, and this one was let go."""


class ThreadWorld:
    """All ranks of a run: who waits in which meeting, who has left, what went wrong.

    When every rank waits or has left, nobody will ever come: the waiting ones are told why. Time
    plays no part in it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()
        self.here = threading.local()
        self.rendezvous_points: dict[tuple[int, ...], Rendezvous] = {}
        self.waiting: dict[int, PendingCollective] = {}
        self.left: set[int] = set()
        self.fault: RankError | None = None

    def rendezvous(self, ranks: tuple[int, ...]) -> "Rendezvous":
        """Return the meeting of these ranks, the same one for each of them."""
        with self.lock:
            return self.rendezvous_points.setdefault(ranks, Rendezvous(self, ranks))

    def begin(self) -> None:
        """Forget the last run."""
        self.waiting.clear()
        self.left.clear()
        self.fault = None
        for rendezvous in self.rendezvous_points.values():
            rendezvous.present = 0

    def leave(self, rank: int) -> None:
        """Note that `rank` has returned."""
        with self.lock:
            self.left.add(rank)
            self.check_deadlock()

    def fail(self, rank: int, error: BaseException) -> None:
        """Note that `rank` raised; release everybody who waits."""
        with self.lock:
            self._release(ReleasedError(f"rank {rank} raised {type(error).__name__}: {error}"))

    def check_deadlock(self) -> None:
        """Release everybody if nobody can go on."""
        if why := describe_deadlock(self.waiting, self.left, self.size):
            self._release(RankError(why))

    def _release(self, fault: RankError) -> None:
        self.fault = self.fault or fault
        for rendezvous in self.rendezvous_points.values():
            rendezvous.changed.notify_all()


class Rendezvous:
    """A place where some ranks exchange, again and again."""

    def __init__(self, world: ThreadWorld, ranks: tuple[int, ...]) -> None:
        self.world = world
        self.ranks = ranks
        self.present = 0
        self.changed = threading.Condition(world.lock)
        self._round = 0
        self._mail: list[Any] = [None] * len(ranks)
        self._said = [""] * len(ranks)

    @property
    def index(self) -> int:
        """Which of the meeting's ranks this thread is."""
        return self.ranks.index(self.world.here.rank)

    def exchange(self, what: str, x: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Return `combine` of what every rank brought, in rank order.

        Nobody leaves before everybody has combined: ranks may then overwrite what they brought.
        """
        self._mail[self.index], self._said[self.index] = x, what
        self._wait(what)
        check_same_collective(self._said, self.ranks)
        answer = combine(self._mail)
        self._wait(what)
        return answer

    def _wait(self, what: str) -> None:
        with self.changed:
            this_round, waiting = self._round, self.world.waiting
            waiting[self.world.here.rank] = PendingCollective(self.ranks, this_round, what)
            self.present += 1
            if self.present == len(self.ranks) and not self.world.fault:
                self.present, self._round = 0, this_round + 1
                for rank in self.ranks:
                    del waiting[rank]
                self.changed.notify_all()
                return
            self.world.check_deadlock()
            self.changed.wait_for(lambda: self._round > this_round or self.world.fault)
            if self._round == this_round:
                raise self.world.fault or AssertionError
