"""`functools.cache` with a lock: whichever threads call a function first, it runs once.

Source: Python's documentation of `functools.cache`: a function may run more than once if another
thread calls it before the first call has ended. That is a second pool, or a rank that joins twice.
"""

import os
import threading
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Any, Generic, TypeVar

__all__ = ["locked_cache"]

Result = TypeVar("Result")


class _LockedCache(Generic[Result]):
    """A cached function behind a lock, which a forked child replaces."""

    def __init__(self, function: Callable[..., Result]) -> None:
        update_wrapper(self, function)
        self._cached = cache(function)
        self.cache_clear = self._cached.cache_clear
        self._renew_lock()
        os.register_at_fork(after_in_child=self._renew_lock)  # another thread may have held it

    def __call__(self, *args: Any) -> Result:
        with self._lock:
            return self._cached(*args)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()


def locked_cache(function: Callable[..., Result]) -> _LockedCache[Result]:
    """Return `function`, which runs once for each of its arguments, a failure aside."""
    return _LockedCache(function)
