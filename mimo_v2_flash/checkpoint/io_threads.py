"""A thread-pool map that fails fast."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeAlias, TypeVar

__all__ = ["parallel_map"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Jobs: TypeAlias = SimpleQueue[tuple[Future[Result], Item] | None]


def parallel_map(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> list[Result]:
    """Return the results of `work` on every item, in the order of the items.

    The first exception is raised at once, and so is KeyboardInterrupt: no more items are begun, and
    running ones are not waited for, since they may hang on a dead network. Their threads end by
    themselves, or with the process.
    """
    jobs: Jobs[Result, Item] = SimpleQueue()
    futures: list[Future[Result]] = [Future() for _ in items]
    for job in zip(futures, items, strict=True):
        jobs.put(job)
    stopped = Event()
    for _ in range(workers):
        jobs.put(None)
        # Daemons, unlike a ThreadPoolExecutor's threads: the process does not wait for them.
        Thread(target=_work, args=(work, jobs, stopped), daemon=True).start()
    try:
        ended = wait(futures, return_when=FIRST_EXCEPTION).done
    finally:
        stopped.set()
    for future in ended:
        future.result()
    return [future.result() for future in futures]


def _work(work: Callable[[Item], Result], jobs: Jobs[Result, Item], stopped: Event) -> None:
    for future, item in iter(jobs.get, None):
        if stopped.is_set():
            return
        try:
            future.set_result(work(item))
        except BaseException as error:  # raised by future.result()
            stopped.set()
            future.set_exception(error)
