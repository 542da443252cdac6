"""A thread-pool map that fails fast."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from threading import Event, Thread
from typing import TypeVar

__all__ = ["parallel_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> list[Result]:
    """Return the results of `work` on every item, in the order of the items.

    The first exception is raised at once, and so is KeyboardInterrupt: no more items are begun, and
    running ones are not waited for, since they may hang on a dead network. Their threads end by
    themselves, or with the process.

    Parameters
    ----------
    work : callable
        Function of one item.
    items : sequence
        The items.
    workers : int
        Number of threads.
    """
    futures: list[Future[Result]] = [Future() for _ in items]
    jobs, stopped = zip(futures, items, strict=True), Event()
    for _ in range(workers):
        # Daemons, unlike a ThreadPoolExecutor's threads: the process does not wait for them.
        Thread(target=_work, args=(work, jobs, stopped), daemon=True).start()
    try:
        ended = wait(futures, return_when=FIRST_EXCEPTION).done
    finally:
        stopped.set()
    for future in ended:
        future.result()
    return [future.result() for future in futures]


def _work(
    work: Callable[[Item], Result], jobs: Iterator[tuple[Future[Result], Item]], stopped: Event
) -> None:
    """Work on jobs until none is left; `next` on a zip of sequences is atomic under the GIL."""
    for future, item in jobs:
        if stopped.is_set():
            return
        try:
            future.set_result(work(item))
        except BaseException as error:  # raised by future.result()
            stopped.set()
            future.set_exception(error)
