"""Tests of traced dots: float32 results of any operands, and batch axes that broadcast."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("nkipy")
pytestmark = pytest.mark.nkipy

SHAPES = {
    "matrices": ((2, 4), (3, 4), (2, 3)),
    "equal batch": ((5, 2, 4), (5, 3, 4), (5, 2, 3)),
    "batch axes broadcast": ((5, 1, 2, 4), (6, 3, 4), (5, 6, 2, 3)),
}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("x", "w", "y"), SHAPES.values(), ids=SHAPES)
def test_a_dot_is_float32(dtype, x, w, y):
    from mimo_v2_flash.quantization.traced_dot import dot

    trace = pytest.importorskip("nkipy.core.trace")
    module = trace.NKIPyKernel.trace(dot).specialize(np.ones(x, dtype), np.ones(w, dtype))
    output, *_ = module.outputs
    assert (tuple(output.shape), np.dtype(output.dtype)) == (y, np.float32)
