"""Process group of threads of one process: real collectives on a CPU, for tests and small runs."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np

from .consistency import check_counts, check_ranks, describe_collective
from .rendezvous import ReleasedError, ThreadWorld

__all__ = ["ThreadGroup", "sum_in_rank_order"]

Result = TypeVar("Result")


class _Threads:
    """Process group of some ranks of a `ThreadWorld`; the calling thread determines the rank."""

    def __init__(self, world: ThreadWorld, ranks: tuple[int, ...]) -> None:
        self.size = len(ranks)
        self._world = world
        self._rendezvous = world.rendezvous(ranks)

    @property
    def rank(self) -> int:
        """Rank of the calling thread."""
        return self._rendezvous.index

    def all_to_all(self, x_PMD: Any) -> Any:
        """Send row p to rank p; return the rows received, in rank order."""
        return self._exchange("all_to_all", x_PMD, lambda inputs: np.stack(self._received(inputs)))

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order."""
        return self._exchange("all_gather", x_ND, np.stack)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Send row p to rank p; return the sum of the rows received."""
        return self._exchange(
            "reduce_scatter", x_PND, lambda inputs: sum_in_rank_order(self._received(inputs))
        )

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, added in rank order."""
        return self._exchange("all_reduce", x, sum_in_rank_order)

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Send the next count_P[p] rows to rank p; return (rows received, their counts) by rank."""
        ends = [0, *accumulate(check_counts(x_ND, count_P, self.size))]
        sent = [x_ND[start:end] for start, end in pairwise(ends)]

        def concatenate(inputs: list[Any]) -> tuple[Any, Any]:
            rows = self._received(inputs)
            return np.concatenate(rows), np.array([part.shape[0] for part in rows])

        return self._rendezvous.exchange(
            describe_collective("ragged_all_to_all", x_ND), sent, concatenate
        )

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's `message`."""
        return self._rendezvous.exchange("broadcast", message, lambda messages: messages[0])

    def abort(self, error: BaseException) -> None:
        """Release all ranks that wait: they raise RankError, which names this rank and `error`."""
        self._world.fail(self._world.current.rank, error)

    def split(self, ranks: Sequence[int]) -> "_Threads":
        """Return the subgroup whose rank i is rank `ranks[i]` of this group."""
        world_ranks = self._rendezvous.ranks
        return _Threads(self._world, tuple(world_ranks[rank] for rank in check_ranks(ranks, self)))

    def _exchange(self, name: str, x: Any, combine: Callable[[list[Any]], Any]) -> Any:
        return self._rendezvous.exchange(describe_collective(name, x), x, combine)

    def _received(self, inputs: list[Any]) -> list[Any]:
        return [sent[self.rank] for sent in inputs]


class ThreadGroup(_Threads):
    """Process group of `size` threads; `run` calls a program on each of them at once.

    Parameters
    ----------
    size
        Number of ranks, each a thread.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"ThreadGroup: size must be at least 1, got {size}")
        super().__init__(ThreadWorld(size), tuple(range(size)))

    def run(self, program: Callable[[int], Result]) -> list[Result]:
        """Return `program(rank)` of every rank, in rank order.

        Raises
        ------
        RankError
            If ranks call different collectives, or one waits for a rank that has returned.
        Exception
            The exception of the lowest rank that failed; ranks that waited for it are released.
        """
        self._world.begin()
        with ThreadPoolExecutor(self.size) as pool:
            ranks = [pool.submit(self._start, program, rank) for rank in range(self.size)]
        failures = [failure for rank in ranks if (failure := rank.exception())]
        for failure in sorted(failures, key=lambda failure: isinstance(failure, ReleasedError)):
            raise failure
        return [rank.result() for rank in ranks]

    def _start(self, program: Callable[[int], Result], rank: int) -> Result:
        self._world.current.rank = rank
        try:
            result = program(rank)
        except BaseException as error:
            self._world.fail(rank, error)
            raise
        self._world.leave(rank)
        return result


def sum_in_rank_order(parts: list[Any]) -> Any:
    """Return the sum of `parts`, added in their order."""
    first, *others = parts
    return sum(others, start=first)
