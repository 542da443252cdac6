"""I/O specs have the names, shapes and dtypes that nkipy gives inputs and outputs in a NEFF."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels import ops

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

FLOAT8 = np.zeros((3, 4), ml_dtypes.float8_e4m3)


def written(x, row, cache):
    ops.put_rows(cache, row, x)
    return x * np.float32(2), np.sum(x, axis=0)


def stored(x, w):
    return w.astype(np.float32).astype(ml_dtypes.bfloat16), x.astype(np.int32)


def twice(x):
    y = np.sum(x, axis=0)
    return y, y


def traced(function, donate=None, **arguments):
    from mimo_v2_flash.execution.tracing import trace

    return trace(function, arguments, donate=donate).module


X, ROW, CACHE = np.ones((2, 3), np.float32), np.array([4, 1], np.int32), np.ones((5, 3), np.float32)


def test_names_are_those_of_nkipy():
    from mimo_v2_flash.execution.io_spec import program_io

    io = program_io(traced(written, "x", x=X, row=ROW, cache=CACHE))
    names = ["x.must_alias_input", "row", "cache.must_alias_input"]
    assert [spec.name for spec in io.inputs] == names
    assert [spec.name for spec in io.outputs] == ["x", "output1", "cache"]
    assert io.in_place == {0: 0, 2: 2}
    assert [spec.shape for spec in io.outputs] == [(2, 3), (3,), (5, 3)]
    assert [spec.nbytes for spec in io.inputs] == [24, 8, 60]


def test_dtypes_are_those_of_the_arrays():
    from mimo_v2_flash.execution.io_spec import program_io

    io = program_io(traced(stored, x=X, w=FLOAT8))
    assert [spec.dtype for spec in io.inputs] == [np.float32, ml_dtypes.float8_e4m3]
    assert [spec.dtype for spec in io.outputs] == [ml_dtypes.bfloat16, np.int32]
    assert [spec.nbytes for spec in io.inputs] == [24, 12]


def test_a_lone_output_is_no_tuple():
    from mimo_v2_flash.execution.io_spec import program_io

    alone = program_io(traced(lambda x: np.sum(x, axis=0), x=X))
    assert [spec[:2] for spec in alone.outputs] == [("output0", (3,))]
    assert alone.in_place == {}
    in_place = program_io(traced(lambda x: x + x, "x", x=X))
    assert [spec.name for spec in in_place.outputs] == ["x"]
    assert in_place.in_place == {0: 0}


def test_an_array_that_is_returned_twice_is_refused():
    from mimo_v2_flash.execution.io_spec import program_io

    with pytest.raises(ValueError, match="program twice returns an array twice: output1, output1"):
        program_io(traced(twice, x=X))
