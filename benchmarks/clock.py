"""Timing of a function call."""

import statistics
import time
from collections.abc import Callable

__all__ = ["median_seconds", "seconds"]


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call of `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Return the median of the seconds that `times` calls of `work` take."""
    return statistics.median(seconds(work) for _ in range(times))
