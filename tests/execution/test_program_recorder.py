"""The program recorder: outputs of the right shapes without computing, and counts of calls."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution.program_recorder import ProgramRecorder, meta_arrays  # noqa: E402

X = np.ones((4, 8), np.float32)
DTYPES = [np.float32, ml_dtypes.bfloat16, np.int32, np.uint8, ml_dtypes.float8_e4m3]


def sliced(x, cache, *, count: int):
    cache[:2] = x[:2]
    return (x[:count] * np.float32(2)).astype(ml_dtypes.bfloat16), np.argmax(x, axis=1)


def repeated(x):
    return np.concatenate([x, x], axis=0)


def test_outputs_have_the_shapes_and_dtypes_of_what_is_computed():
    recorder = ProgramRecorder()
    first, second = recorder.compile(sliced)(X, X, count=3)
    assert (first.shape, first.dtype) == ((3, 8), ml_dtypes.bfloat16)
    assert (second.shape, second.dtype.kind) == ((4,), "i")
    assert not first.any()
    recorder.value = 1
    first, second = recorder.compile(sliced)(X, X, count=3)
    assert (first == 1).all()
    assert (second == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back(dtype):
    y = ProgramRecorder().compile(repeated)(X.astype(dtype))
    assert (y.shape, y.dtype) == ((8, 8), dtype)


def test_programs_are_distinguished_and_calls_counted():
    recorder = ProgramRecorder()
    program = recorder.compile(sliced)
    for rows, count in ((4, 3), (4, 2), (4, 3), (5, 3)):
        program(X, np.ones((rows, 8), np.float32), count=count)
    assert recorder.calls == {0: 2, 1: 1, 2: 1}
    assert [called.function for called in recorder.programs] == [sliced] * 3
    assert [called.arguments["count"] for called in recorder.programs] == [3, 2, 3]
    assert recorder.programs[2].arguments["cache"].shape == (5, 8)
    assert recorder.programs[0].traced.in_place == {2: "cache"}


def test_programs_of_equal_content_are_one():
    recorder = ProgramRecorder()
    for function in (partial(sliced, count=2), partial(sliced, count=2), partial(sliced, count=3)):
        recorder.compile(function)(X, X)
    assert recorder.calls == {0: 2, 1: 1}
    assert len(recorder.programs) == 2


def test_arrays_on_the_device_take_no_memory():
    tree = ProgramRecorder().to_device({"a": (np.ones((1 << 10, 1 << 10)), "text")})
    assert tree["a"][1] == "text"
    assert tree["a"][0].shape == (1 << 10, 1 << 10)
    assert tree["a"][0].strides == (0, 0)
    assert meta_arrays(3) == 3
