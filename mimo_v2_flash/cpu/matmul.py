"""Compiled CPU matmul of stored weights, decoded in registers or in the cache, on all threads.

For up to some hundred rows of x a weight is read as stored and decoded in registers. For more rows,
tiles are decoded that stay in the cache, and BLAS multiplies them. A weight is never held in
float32 as a whole. docs/decisions/0011 has the figures.
"""

from functools import partial
from typing import Any, Protocol

import numpy as np

from .blas import times_transposed
from .rounding import round_rows
from .thread_pool import MIN_SHARED_WORK, available_threads, parallel_for
from .tile import LANES, interleave_words

__all__ = ["CompiledWeight", "batch_product", "is_contiguous", "product", "read_only"]

MAX_REGISTER_ROWS = (
    512 if LANES == 16 else 48
)  # rows up to which decoding in registers is as fast as BLAS
MIN_INPUTS_PER_ROW = 4  # of a weight per row of x, below which BLAS adds up short sums faster
TILE_ROWS = 256  # rows of a weight that are decoded at a time
TASK_COLUMNS = 128  # columns of the product of which a task computes a multiple


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

    def decode_rows(self, start: int, end: int) -> np.ndarray:
        """Return rows `start` to `end` in float32."""


def product(
    x_NI: np.ndarray, weight: CompiledWeight, outputs: int, compute: str = "float32"
) -> np.ndarray:
    """Return float32 `x_NI`, rounded as `compute` says, times the transpose of a weight.

    The weight has `outputs` rows; `compute` is a key of `quantization.compute.COMPUTE_TYPES`.
    """
    rows, inputs = x_NI.shape
    x_NI = round_rows(np.ascontiguousarray(x_NI), compute)
    y_NO = np.empty((rows, outputs), np.float32)
    if rows <= min(MAX_REGISTER_ROWS, inputs // MIN_INPUTS_PER_ROW):
        tasks = 4 * available_threads()  # several for each thread balance the load
        step = -(-outputs // (tasks * TASK_COLUMNS)) * TASK_COLUMNS
        fill = partial(weight.fill_columns, interleave_words(x_NI, weight.itemsize), y_NO)
    else:
        step, fill = TILE_ROWS, partial(_fill_by_tile, x_NI, weight, y_NO)
    if step >= outputs or max(rows, 4) * inputs * outputs < MIN_SHARED_WORK:
        fill(0, outputs)
    else:
        starts = range(0, outputs, step)
        parallel_for(lambda i: fill(starts[i], min(starts[i] + step, outputs)), len(starts))
    return y_NO


def _fill_by_tile(
    x_NI: np.ndarray, weight: CompiledWeight, y_NO: np.ndarray, start: int, end: int
) -> None:
    """Fill columns `start` to `end` of `y_NO` from decoded rows, which BLAS multiplies."""
    times_transposed(x_NI, weight.decode_rows(start, end), out=y_NO[:, start:end])


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
