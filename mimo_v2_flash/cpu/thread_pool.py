"""Thread pool of the process, shared by all matmuls and layers, with single-threaded BLAS.

Matmuls are split over these threads, and BLAS runs on one thread in each. Two pools that take turns
on the same cores, BLAS's and another, wait for each other: measured 5 to 40 times slower.

Source: threadpoolctl; OpenBLAS's threads spin for milliseconds after each matmul.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import threadpool_limits

__all__ = ["available_threads", "parallel_for", "thread_count"]

INSIDE = threading.local()


@cache
def thread_count() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def available_threads() -> int:
    """Return how many threads `parallel_for` uses if the current thread calls it."""
    return 1 if getattr(INSIDE, "worker", False) else thread_count()


def parallel_for(work: Callable[[int], None], count: int) -> None:
    """Call `work(0)` to `work(count - 1)` on all threads; inside a worker, one after the other.

    The calling thread works as well. If a call fails, the others finish, then its exception is
    raised.
    """
    helpers = min(available_threads(), count) - 1
    if helpers < 1:
        for index in range(count):
            work(index)
        return
    indices = iter(range(count))
    futures = [_pool().submit(_drain, work, indices) for _ in range(helpers)]
    try:
        _drain(work, indices)
    finally:
        failures = [failure for future in futures if (failure := future.exception())]
    if failures:
        raise failures[0]


def _drain(work: Callable[[int], None], indices: Iterator[int]) -> None:
    """Process indices until none is left; `next` on a range's iterator is atomic under the GIL."""
    INSIDE.worker = True
    try:
        for index in indices:
            work(index)
    finally:
        INSIDE.worker = False


@cache
def _pool() -> ThreadPoolExecutor:
    threadpool_limits(limits=1, user_api="blas")
    return ThreadPoolExecutor(thread_count() - 1, thread_name_prefix="mimo")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
