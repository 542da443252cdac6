"""Counters that the threads of a compiled loop share: which task is next, how many are done.

Source: LLVM Language Reference, `atomicrmw`, `load atomic`; POSIX, `sched_yield`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .loops import in_order

__all__ = ["STRIDE", "add_one", "wait_for"]

STRIDE = 16  # integers between two counters: each has lines of the processor's cache of its own
SPINS = 1000  # about a microsecond; then a thread that waits leaves its core to others
INT64 = ir.IntType(64)
_yield_core = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def add_one(_, count_C, index):
    """Add 1 to an element, in one step for all threads; return what it was."""

    def emit(context, build, signature, args):
        address = _address(context, build, signature, args)
        return build.atomic_rmw("add", address, INT64(1), "acq_rel")

    return types.int64(count_C, index), emit


@intrinsic
def _current(_, count_C, index):
    """Return an element and see all that was written before others added to it."""

    def emit(context, build, signature, args):
        return build.load_atomic(_address(context, build, signature, args), "acquire", 8)

    return types.int64(count_C, index), emit


def _address(context: Any, build: Any, signature: Any, args: Any) -> Any:
    return build.gep(make_array(signature.args[0])(context, build, args[0]).data, [args[1]])


@in_order
def wait_for(count_C, index, count):
    """Return when an element has reached `count`."""
    spins = 0
    while _current(count_C, index) < count:
        spins += 1
        if spins > SPINS:
            _yield_core()
