"""Tests of traced_ops: every operation traces, and its output has NumPy's shape and dtype."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.fp8 import BlockScaled

pytest.importorskip("nkipy")
pytestmark = pytest.mark.nkipy

BFLOAT16, FP8 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3


def ones(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def scaled_matmul(x, code, scale):
    return ops.matmul(x, BlockScaled(code, scale, 64))


def put(buffer, row, x):
    ops.put_rows(buffer, row, x)
    return buffer * np.float32(1)


def best_value(x):
    return ops.top_k(x, 3)[0]


def best_index(x):
    return ops.top_k(x, 3)[1]


def constant(x):
    return np.take(ops.constant(x, np.arange(4, dtype=np.int32)), x, axis=0)


def arange(x):
    return ops.arange(x, 5)


def full(x):
    return ops.full(x, (2, 5), 7, BFLOAT16)


CASES = {
    "matmul": (ops.matmul, [ones(2, 4), ones(3, 4)], np.float32, (2, 3)),
    "matmul, bfloat16": (
        ops.matmul,
        [ones(2, 4, dtype=BFLOAT16), ones(3, 4, dtype=BFLOAT16)],
        np.float32,
        (2, 3),
    ),
    "matmul, batch": (ops.matmul, [ones(5, 1, 2, 4), ones(6, 3, 4)], np.float32, (5, 6, 2, 3)),
    "matmul, FP8": (
        scaled_matmul,
        [ones(2, 300, dtype=BFLOAT16), ones(130, 300, dtype=FP8), ones(3, 3)],
        np.float32,
        (2, 130),
    ),
    "top_k, values": (best_value, [ones(2, 6)], np.float32, (2, 3)),
    "top_k, indices": (best_index, [ones(2, 6)], np.int32, (2, 3)),
    "sigmoid": (ops.sigmoid, [ones(2, 6)], np.float32, (2, 6)),
    "swiglu": (ops.swiglu, [ones(2, 6), ones(2, 6)], np.float32, (2, 6)),
    "constant": (constant, [ones(3, dtype=np.int32)], np.int32, (3,)),
    "arange": (arange, [ones(1)], np.int32, (5,)),
    "full": (full, [ones(1)], BFLOAT16, (2, 5)),
    "put_rows": (put, [ones(5, 2), ones(3, dtype=np.int32), ones(3, 2)], np.float32, (5, 2)),
}


@pytest.mark.parametrize(("program", "args", "dtype", "shape"), CASES.values(), ids=CASES)
def test_it_traces(program, args, dtype, shape):
    trace = pytest.importorskip("nkipy.core.trace")
    module = trace.NKIPyKernel.trace(program).specialize(*args)
    assert module.to_proto().ByteSize()
    output, *_ = module.outputs
    assert (tuple(output.shape), np.dtype(output.dtype)) == (shape, np.dtype(dtype))
