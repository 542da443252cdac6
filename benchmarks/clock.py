"""Seconds of a piece of work."""

import statistics
import time
from collections.abc import Callable

__all__ = ["median_seconds", "seconds"]


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Return how long `work` takes, the median of so many `times`."""
    return statistics.median(seconds(work) for _ in range(times))
