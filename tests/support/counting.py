"""Cost counters for kernel calls: multiply-adds in `ops.matmul`, and peak memory in bytes.

with counted() as cost:
    attention_swa(...)
assert cost.multiply_adds < ...
"""

import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.fp8 import quantize


@dataclass
class Cost:
    """The cost of a block of code so far.

    Attributes
    ----------
    matmuls
        Calls of `ops.matmul`.
    multiply_adds
        Multiplications in them; kernels have no other matmul.
    peak_bytes
        The largest amount of memory held at one time, less the amount held at the start;
        temporaries and results count. NumPy reports its arrays to tracemalloc; scratch memory of
        BLAS does not count. It is set when the block ends.
    """

    matmuls: int = 0
    multiply_adds: int = 0
    peak_bytes: int = 0


@contextmanager
def counted() -> Iterator[Cost]:
    """Count the matmuls and the memory of the block."""
    _load_compiled_loops()
    cost, matmul = Cost(), ops.matmul

    def counted_matmul(x, w):
        batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
        cost.matmuls += 1
        cost.multiply_adds += math.prod((*batch, *x.shape[-2:-1], *w.shape[-2:]))
        return matmul(x, w)

    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    ops.matmul = counted_matmul
    try:
        yield cost
    finally:
        ops.matmul = matmul
        cost.peak_bytes = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()


@cache
def _load_compiled_loops() -> None:
    """Run every compiled loop once, with few and many rows: its first call loads its code."""
    w_OI, x_NI = np.ones((256, 256), np.float32), np.ones((1000, 256), np.float32)
    for w in (w_OI, w_OI.astype(ml_dtypes.bfloat16), quantize(w_OI)):
        for rows in (1, 30, len(x_NI)):  # 1,000: too many to decode in registers, on any CPU
            ops.matmul(x_NI[:rows], w)
