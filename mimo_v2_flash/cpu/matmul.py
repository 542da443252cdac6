"""Compiled CPU matmul of stored weights, decoded in registers or in the cache, on all threads.

For few rows of x a weight is read as stored and decoded in registers. For more rows it is decoded
once, into panels that stay in the cache. A weight is never held in float32 as a whole.
docs/decisions/0011 and 0042 have the figures.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from .bfloat16_unit import uses_unit
from .blas import times_transposed
from .loading import compiled_module
from .panel import PANEL, VECTOR
from .panel_product import SCRATCH, float32_panels
from .rounding import round_rows
from .thread_pool import MIN_SHARED_WORK, available_threads, parallel_for
from .tile import WORD, interleave_words

__all__ = ["CompiledWeight", "batch_product", "is_contiguous", "product", "read_only"]

MAX_REGISTER_ROWS = 16  # panels are as fast from 12 rows on with one processor, 48 with another
TASK_COLUMNS = 128  # columns of the product of which a task computes a multiple, in registers


class CompiledWeight(Protocol):
    """A weight [O, I] as the compiled loops of its format read it."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element, which say how `tile.interleave_words` orders x."""

    @property
    def address(self) -> tuple[int, ...]:
        """Three integers by which `expert_loop` reads the weight, while the weight is alive."""

    @property
    def expert_loop(self) -> Any:
        """The loop of its format made by `expert_step.expert_loop`; None where there is none."""

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        """Fill columns `start` to `end` of the product `y_NO`; x is in the order of words."""

    @property
    def packer(self) -> int:
        """Address of the C function that packs its rows; its arguments are integers.

        It has `address`, the shape (O, I), a row o, columns `start` and `stop`, and an address, to
        which it writes rows o to o + `LANES` - 1 as `panel_product.rows_packer` does, and scales.
        """

    @property
    def bfloat16_packer(self) -> int:
        """The same for panels of pairs of bfloat16, which must be exact; 0 where there is none."""


def product(
    x_NI: np.ndarray, weight: CompiledWeight, outputs: int, compute: str = "float32"
) -> np.ndarray:
    """Return float32 `x_NI`, rounded as `compute` says, times the transpose of a weight.

    The weight has `outputs` rows; `compute` is a key of `quantization.compute.COMPUTE_TYPES`.
    """
    (rows, inputs), x_NI = x_NI.shape, np.ascontiguousarray(x_NI)
    y_NO = np.empty((rows, outputs), np.float32)
    if rows > _max_register_rows(compute):
        unit, fill = PANEL, _fill_by_panels(x_NI, weight, y_NO, compute)
    else:
        unit, x_NI = TASK_COLUMNS, interleave_words(round_rows(x_NI, compute), weight.itemsize)
        fill = partial(weight.fill_columns, x_NI, y_NO)
    tasks = 4 * available_threads()  # several for each thread balance the load
    step = -(-outputs // (tasks * unit)) * unit
    if step >= outputs or max(rows, 4) * inputs * outputs < MIN_SHARED_WORK:
        fill(0, outputs)
    else:
        starts = range(0, outputs, step)
        parallel_for(lambda i: fill(starts[i], min(starts[i] + step, outputs)), len(starts))
    return y_NO


def _max_register_rows(compute: str) -> int:
    return 8 if compute == "bfloat16" and uses_unit() else MAX_REGISTER_ROWS


def _fill_by_panels(
    x_NI: np.ndarray, weight: CompiledWeight, y_NO: np.ndarray, compute: str
) -> Callable[[int, int], None]:
    """Return the function that fills columns of `y_NO` from packed panels of the weight."""
    packer, address, inputs = weight.packer, weight.address, x_NI.shape[1]
    loops = compiled_module("bfloat16_panels") if compute == "bfloat16" and uses_unit() else None
    if loops and (pair_packer := weight.bfloat16_packer):
        multiply, pair_NW = loops.prepare(x_NI)
        return lambda start, end: multiply(
            pair_NW, pair_packer, address, y_NO, start, end, _scratch(), inputs
        )
    x_NI = round_rows(x_NI, compute)
    return lambda start, end: float32_panels(x_NI, packer, address, y_NO, start, end, _scratch())


_local = threading.local()


def _scratch() -> np.ndarray:
    """Return this thread's room for panels, which begins where a vector may."""
    if not hasattr(_local, "panel_W"):
        room = np.empty(SCRATCH + VECTOR // WORD, np.float32)
        _local.panel_W = room[-room.ctypes.data % VECTOR // WORD :][:SCRATCH]
    return _local.panel_W


def batch_product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return a matmul for each index of equal batch axes, on all threads: attention's heads.

    Tasks are parts of the longest batch axis; NumPy's own loop runs over what a part holds.
    """
    y = np.empty((*x.shape[:-1], w.shape[-2]), np.float32)
    axis = int(np.argmax(x.shape[:-2]))
    length, is_shared = x.shape[axis], y.size * x.shape[-1] >= MIN_SHARED_WORK
    tasks = min(length, 4 * available_threads()) if is_shared else 1
    edges = [length * task // tasks for task in range(tasks + 1)]

    def compute(task: int) -> None:
        part = (slice(None),) * axis + (slice(edges[task], edges[task + 1]),)
        times_transposed(x[part], w[part], out=y[part])

    parallel_for(compute, tasks)
    return y


def is_contiguous(array: np.ndarray) -> bool:
    """Return whether compiled loops can read `array`, which may be a mapped file."""
    return bool(array.flags.c_contiguous and array.flags.aligned)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a read-only view: one compiled signature serves memory and mapped files."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
