"""Ranks as threads of one process: real exchanges on any CPU, for tests and small runs."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

__all__ = ["ThreadGroup"]

Answer = TypeVar("Answer")


class ThreadGroup:
    """`size` ranks; `run` calls a program on each of them at once.

    Parameters
    ----------
    size
        Number of ranks, each a thread.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"ThreadGroup: size must be at least 1, got {size}")
        self.size = size
        self._mail: list[Any] = [None] * size
        self._meeting = threading.Barrier(size)
        self._here = threading.local()

    def run(self, program: Callable[[int], Answer]) -> list[Answer]:
        """Return `program(rank)` of every rank, in rank order.

        Raises
        ------
        Exception
            What the first failing rank raised; the others are released from their exchanges.
        """
        self._meeting.reset()
        with ThreadPoolExecutor(self.size) as pool:
            ranks = [pool.submit(self._start, program, rank) for rank in range(self.size)]
        failures = [rank.exception() for rank in ranks if rank.exception() is not None]
        causes = [f for f in failures if not isinstance(f, threading.BrokenBarrierError)]
        for failure in causes or failures:
            assert failure is not None
            raise failure
        return [rank.result() for rank in ranks]

    def _start(self, program: Callable[[int], Answer], rank: int) -> Answer:
        self._here.rank = rank
        try:
            return program(rank)
        except BaseException:
            self._meeting.abort()
            raise

    def _exchange(self, x: Any, combine: Callable[[list[Any]], Any]) -> Any:
        """Return `combine` of what every rank brought to this meeting, in rank order.

        Nobody leaves before everybody has combined: ranks may then overwrite what they brought.
        """
        self._mail[self._here.rank] = x
        self._meeting.wait()
        answer = combine(self._mail)
        self._meeting.wait()
        return answer

    def all_to_all(self, x_PMD: Any) -> Any:
        """Give row p to rank p; return the rows that the ranks gave us, in rank order."""
        return self._exchange(x_PMD, lambda mail: np.stack(self._own_rows(mail)))

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order."""
        return self._exchange(x_ND, np.stack)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Give row p to rank p; return the sum of the rows that the ranks gave us."""
        return self._exchange(x_PND, lambda mail: _total(self._own_rows(mail)))

    def all_sum(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, added in rank order."""
        return self._exchange(x, _total)

    def _own_rows(self, mail: list[Any]) -> list[Any]:
        return [sent[self._here.rank] for sent in mail]


def _total(parts: list[Any]) -> Any:
    first, *others = parts
    return sum(others, start=first)
