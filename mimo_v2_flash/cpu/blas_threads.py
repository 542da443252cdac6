"""BLAS on one thread for as long as kernels run, and as it was afterwards.

Kernels run on threads of their own. Two pools that take turns on the same cores, BLAS's and
another, wait for each other: measured 5 to 40 times slower. Most BLAS libraries have one number of
threads for the whole process, so the first step that begins sets it and the last that ends restores
it; OpenBLAS on OpenMP has one for each thread that calls it.

Source: threadpoolctl, `OpenBLASController`; OpenBLAS's threads spin after each matmul.
"""

import os
import threading
from collections.abc import Iterable
from contextlib import ContextDecorator
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["single_threaded_blas"]


@cache
def _libraries(*, per_thread: bool) -> list[Any]:
    """Return the controllers of the process's BLAS libraries, NumPy's at least, of one kind."""
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return [
        blas
        for blas in libraries
        if (blas.internal_api == "openblas" and blas.threading_layer == "openmp") == per_thread
    ]


class _Limit:
    """A limit of one thread on some libraries: how often it was entered, what it replaced."""

    def __init__(self) -> None:
        self.entered, self.replaced = 0, list[tuple[Any, int]]()

    def enter(self, libraries: Iterable[Any]) -> None:
        """Set the limit, unless it is set already."""
        if not self.entered:
            self.replaced = [(blas, blas.get_num_threads()) for blas in libraries]
            _set_threads((blas, 1) for blas, _ in self.replaced)
        self.entered += 1

    def leave(self, times: int = 1) -> None:
        """Restore what was replaced, if this is the last that leaves."""
        self.entered -= times
        if not self.entered:
            _set_threads(self.replaced)


class _LimitOfThread(_Limit, threading.local):
    """A limit that each thread has for itself."""


class _SingleThreadedBLAS(ContextDecorator):
    """A context, and a decorator, within which BLAS has one thread; it nests."""

    def __init__(self) -> None:
        self._lock, self._process, self._thread = threading.Lock(), _Limit(), _LimitOfThread()

    def __enter__(self) -> None:
        with self._lock:
            self._process.enter(_libraries(per_thread=False))
        self.enter_thread()

    def __exit__(self, *_: object) -> None:
        self._thread.leave()
        with self._lock:
            self._process.leave()

    def enter_thread(self) -> None:
        """Begin the limit of the calling thread alone; a thread of a pool never leaves it."""
        self._thread.enter(_libraries(per_thread=True))

    def after_fork(self) -> None:
        """Replace the lock and leave the limit for the parent's other threads, which are gone."""
        self._lock = threading.Lock()
        if (others := self._process.entered - self._thread.entered) > 0:
            self._process.leave(others)


def _set_threads(numbers: Iterable[tuple[Any, int]]) -> None:
    """Set the number of threads of each library, from whichever thread this is.

    threadpoolctl lets only the first thread that sets a number set others, until that is cleared.
    """
    for blas, number in numbers:
        clear = getattr(blas, "clear_controlling_thread", lambda **_: None)
        clear(force=True)
        blas.set_num_threads(number)
        clear(force=True)


single_threaded_blas = _SingleThreadedBLAS()

os.register_at_fork(after_in_child=single_threaded_blas.after_fork)
