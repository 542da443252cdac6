"""What a call costs, counted: multiply-adds through the door of matmuls, and bytes at the peak.

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
from mimo_v2_flash.kernels.block_scale import quantize


@dataclass
class Cost:
    """What has been spent so far.

    Attributes
    ----------
    matmuls
        Calls of `ops.matmul`.
    multiply_adds
        Multiplications in them; kernels have no other matmul.
    peak_bytes
        The most memory held at one time above what was held at the start, temporaries and answer
        together. NumPy reports its arrays to tracemalloc; scratch memory of BLAS does not count.
        Known when the block is left.
    """

    matmuls: int = 0
    multiply_adds: int = 0
    peak_bytes: int = 0


@contextmanager
def counted() -> Iterator[Cost]:
    """Count what the block computes."""
    _load_compiled_loops()
    cost, matmul = Cost(), ops.matmul

    def counting(x, w):
        batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
        cost.matmuls += 1
        cost.multiply_adds += math.prod((*batch, *x.shape[-2:-1], *w.shape[-2:]))
        return matmul(x, w)

    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    ops.matmul = counting
    try:
        yield cost
    finally:
        ops.matmul = matmul
        cost.peak_bytes = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()


@cache
def _load_compiled_loops() -> None:
    """Multiply a few and many rows by every kind of weight: a loop's first call loads its code."""
    w_OI = np.ones((256, 256), np.float32)
    for w in (w_OI, w_OI.astype(ml_dtypes.bfloat16), quantize(w_OI)):
        for rows in (1, 30):
            ops.matmul(w_OI[:rows], w)
