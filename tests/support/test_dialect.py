"""dialect: strict arrays refuse the idioms that nkipy traces wrongly, and compute the others."""

import dataclasses
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.fp8 import quantize
from tests.support import dialect_idioms
from tests.support.dialect import NotTraceable, Strict, plain, strict, strictly
from tests.support.dialect_idioms import ALLOWED, FORBIDDEN, inputs_of


@pytest.mark.parametrize("idiom", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_idiom_is_refused_with_advice(idiom):
    with pytest.raises(NotTraceable, match=r".+ does not trace faithfully; write .+"):
        strictly(idiom)(**inputs_of(idiom))


@pytest.mark.parametrize("idiom", ALLOWED.values(), ids=ALLOWED)
def test_an_allowed_idiom_computes_what_numpy_computes(idiom):
    strict_inputs, plain_inputs = inputs_of(idiom), inputs_of(idiom)
    actual, expected = strictly(idiom)(**strict_inputs), idiom(**plain_inputs)
    np.testing.assert_array_equal(actual, expected)
    if expected is not None and expected.dtype not in (np.int64, np.float64):
        assert actual.dtype == expected.dtype
    for name, array in plain_inputs.items():  # in-place writes of the idiom
        np.testing.assert_array_equal(strict_inputs[name], array)


@pytest.mark.nkipy
@pytest.mark.parametrize("idiom", ALLOWED.values(), ids=ALLOWED)
def test_an_allowed_idiom_traces(idiom):
    trace = pytest.importorskip("nkipy.core.trace")
    trace.NKIPyKernel.trace(idiom).specialize(**inputs_of(idiom)).to_proto()


def test_a_result_has_the_dtype_that_nkipy_gives():
    x, n = dialect_idioms.INPUTS["x"], dialect_idioms.INPUTS["n"]
    assert strictly(lambda x: np.argmax(x, axis=1))(x).dtype == np.int32
    assert strictly(lambda n: np.count_nonzero(n, axis=1))(n).dtype == np.int32
    assert strictly(lambda x: x * np.float64(2))(x).dtype == np.float32


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2),
        np.zeros(2, np.int64),
        np.zeros(2, np.uint64),
        np.zeros(2, np.float16),
        np.zeros(2, ml_dtypes.float8_e4m3fn),
        np.zeros((), np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_programs_do_not_take_is_refused(array):
    with pytest.raises(NotTraceable):
        strict(array)


def test_what_a_kernel_writes_the_caller_holds():
    cache = np.zeros((4, 2), np.float32)

    def write(cache, row_N, x_ND):
        ops.put_rows(cache, row_N, x_ND)
        return cache * 2.0

    actual = strictly(write)(cache, np.array([2, 0], np.int32), np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(cache[:, 0], [1, 0, 1, 0])
    np.testing.assert_array_equal(actual, cache * 2)


def test_only_the_last_row_may_be_written_twice():
    buffer, x = strict(np.zeros((4, 2), np.float32)), strict(np.ones((3, 2), np.float32))
    buffer[strict(np.array([3, 0, 3], np.int32))] = x
    np.testing.assert_array_equal(plain(buffer)[:, 0], [1, 0, 0, 1])
    with pytest.raises(NotTraceable, match="only the last may repeat"):
        buffer[strict(np.array([2, 0, 2], np.int32))] = x


def test_a_view_is_as_old_as_its_tensor():
    x = strict(np.zeros((4, 2), np.float32))
    view = np.reshape(x[1:3], (1, 2, 2))
    with pytest.raises(NotTraceable, match="write to a view"):
        view[0] = x[:2]
    kept, x[0] = np.copy(view), 1.0
    with pytest.raises(NotTraceable, match="a view read after"):
        view + 1.0
    kept[0, 0] = 2.0
    assert plain(x[:, 0] + kept[0, 0, 0])[0] == 3


class Pair(NamedTuple):
    """A NamedTuple, as weights and caches are."""

    first: Any
    rest: Any


@dataclasses.dataclass(frozen=True)
class Record:
    """A dataclass with a static field, as `BlockScaled` has."""

    array: Any
    width: int = 2


def test_records_are_made_strict_wherever_they_are():
    def kernel(pair, *, records):
        assert isinstance(pair, Pair)
        assert isinstance(pair.rest[0], Strict)
        pair.rest[0][0] = records["one"].array
        return Pair(pair.first + 1.0, [Record(records["one"].array * 2.0), None])

    written = np.zeros((1, 2), np.float32)
    pair = Pair(np.ones(2, np.float32), [written])
    actual = strictly(kernel)(pair, records={"one": Record(np.ones(2, np.float32))})
    assert isinstance(actual, Pair)
    np.testing.assert_array_equal(actual.first, [2, 2])
    np.testing.assert_array_equal(actual.rest[0].array, [2, 2])
    np.testing.assert_array_equal(written, [[1, 1]])


def test_a_record_without_arrays_stays_itself():
    record = Record(None)
    assert strictly(lambda record: [record])(record)[0] is record


def test_a_result_is_a_tensor_with_axes():
    with pytest.raises(NotTraceable, match="a result without axes"):
        strictly(np.sum)(np.ones(2, np.float32))
    with pytest.raises(NotTraceable, match="a constant"):
        strictly(lambda x: np.ones(x.shape, np.float32))(np.ones(2, np.float32))


def test_an_unknown_function_is_refused():
    with pytest.raises(NotTraceable, match=r"np\.fft\b|np\.fft2"):
        np.fft.fft2(strict(np.ones((2, 2), np.float32)))


def test_an_unknown_method_is_refused_and_hasattr_says_no():
    x = strict(np.ones(2, np.float32))
    with pytest.raises(NotTraceable, match=r"x\.cumsum .* write np\.cumsum\(x\)"):
        x.cumsum()
    assert not hasattr(x, "view")


def test_matmul_and_top_k_compute_with_strict_arrays():
    x, w = dialect_idioms.INPUTS["x"], dialect_idioms.INPUTS["y"]
    np.testing.assert_array_equal(strictly(ops.matmul)(x, w), ops.matmul(x, w))
    scaled = quantize(np.ones((130, 6), np.float32))
    np.testing.assert_array_equal(strictly(ops.matmul)(x, scaled), ops.matmul(x, scaled))
    value, index = strictly(ops.top_k)(x, 2)
    np.testing.assert_array_equal(value, np.take_along_axis(x, index, axis=-1))
    assert index.dtype == np.int32
