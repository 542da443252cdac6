"""Thread pool of the process, shared by all matmuls and layers, with single-threaded BLAS.

Matmuls are split over these threads, and BLAS runs on one thread in each.

Source: `cpu/blas_threads.py`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.cpu.locked_cache import locked_cache
from mimo_v2_flash.cpu.thread_count import thread_count as resolved_thread_count

__all__ = ["MIN_SHARED_WORK", "available_threads", "parallel_for", "run_in_turn", "thread_count"]

MIN_SHARED_WORK = 1 << 22
"""Multiply-adds, of 4 rows at least, below which one thread is as fast as several."""

INSIDE = threading.local()


def thread_count() -> int:
    """Return how many threads this process uses."""
    return resolved_thread_count().number


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
        run_in_turn(work, count)
        return
    indices = iter(range(count))
    pool = _pool(thread_count() - 1)
    with single_threaded_blas:
        # A thread begins with a context of its own, without the caller's `np.errstate`.
        contexts = [copy_context() for _ in range(helpers)]
        futures = [pool.submit(context.run, _drain, work, indices) for context in contexts]
        try:
            _drain(work, indices)
        finally:
            failures = [failure for future in futures if (failure := future.exception())]
    if failures:
        raise failures[0]


def run_in_turn(work: Callable[[int], None], count: int) -> None:
    """Call `work(0)` to `work(count - 1)` one after the other."""
    for index in range(count):
        work(index)


def _drain(work: Callable[[int], None], indices: Iterator[int]) -> None:
    """Process indices until none is left; `next` on a range's iterator is atomic under the GIL."""
    INSIDE.worker = True
    try:
        for index in indices:
            work(index)
    finally:
        INSIDE.worker = False


@locked_cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    """Return the threads beside the caller's; those of another number stay idle, or finish."""
    begin = single_threaded_blas.enter_thread
    return ThreadPoolExecutor(helpers, thread_name_prefix="mimo", initializer=begin)


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
