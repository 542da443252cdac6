"""Tests of ops: matmul, top-k, sigmoid, constants and writes, on every kind of tensor."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels import ops
from tests.support.counting import counted
from tests.support.drawn import FLOATS, floats, scales, seeds, tensors
from tests.support.kinds import every_kind

BFLOAT16 = ml_dtypes.bfloat16
ONE_1 = np.ones(1, np.float32)
# Batch axes of x and w, and of their product: none, equal, missing or 1 on either side.
BATCHES = [
    ((), (), ()),
    ((3,), (3,), (3,)),
    ((2, 3), (2, 3), (2, 3)),
    ((2, 3), (3,), (2, 3)),
    ((), (4,), (4,)),
    ((2, 1), (1, 3), (2, 3)),
]


@every_kind
@given(st.sampled_from(BATCHES), floats, floats, scales, seeds)
def test_matmul_is_numpys_in_float64(on, batches, x_dtype, w_dtype, scale, seed):
    of_x, of_w, of_y = batches
    generator = np.random.default_rng(seed)
    N, O, I = generator.integers(1, 9, 3)  # noqa: E741
    x = (generator.standard_normal((*of_x, N, I)) * scale).astype(x_dtype)
    w = generator.standard_normal((*of_w, O, I)).astype(w_dtype)
    y = on(ops.matmul)(x, w)
    assert (y.dtype, y.shape) == (np.float32, (*of_y, N, O))
    wide_x, wide_w = x.astype(np.float64), np.swapaxes(w, -1, -2).astype(np.float64)
    summed = np.max(np.abs(wide_x) @ np.abs(wide_w))
    np.testing.assert_allclose(y, wide_x @ wide_w, rtol=0, atol=1e-6 * summed)


@every_kind
@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_adds_up_in_float32(on, dtype):
    # A bfloat16 sum of ones stops growing at 256.
    assert on(ops.matmul)(np.ones((1, 4096), dtype), np.ones((2, 4096), dtype)).tolist() == [
        [4096, 4096]
    ]


@pytest.mark.parametrize("N", [1, 30])
def test_matmul_widens_bfloat16_weights_tile_by_tile(N):
    generator = np.random.default_rng(0)
    w_OI = generator.standard_normal((6000, 600)).astype(BFLOAT16)  # 6 tiles and a part
    x_NI = generator.standard_normal((N, 600)).astype(BFLOAT16)
    with counted() as cost:
        y_NO = ops.matmul(x_NI, w_OI)
    expected_NO = x_NI.astype(np.float32) @ w_OI.astype(np.float32).T
    np.testing.assert_allclose(y_NO, expected_NO, rtol=1e-4, atol=1e-4)
    assert cost.peak_bytes < y_NO.nbytes + 4 * w_OI.size / 2  # half of it in float32


def test_matmul_reads_float32_weights_where_they_are():
    w_OI = np.ones((512, 512), np.float32)
    with counted() as cost:
        ops.matmul(w_OI[:1], w_OI)
    assert cost.peak_bytes < w_OI.nbytes / 16


@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul_refuses_widths_that_differ_with_both_shapes(dtype):
    with pytest.raises(ValueError, match=r"matmul: x is \(2, 3\), w is \(4, 5\)"):
        ops.matmul(np.ones((2, 3), dtype), np.ones((4, 5), dtype))


@every_kind
@given(tensors("x_BTV"), st.booleans(), st.data())
def test_top_k_is_sorted_best_first_lowest_index_first(on, drawn, with_ties, data):
    x_BTV = np.rint(drawn[0]) if with_ties else drawn[0]
    k = data.draw(st.integers(1, x_BTV.shape[-1]))
    value, index = on(ops.top_k)(x_BTV, k)
    assert (value.dtype, index.dtype) == (x_BTV.dtype, np.int32)
    for b, t in np.ndindex(*x_BTV.shape[:-1]):
        row = x_BTV[b, t].tolist()
        assert index[b, t].tolist() == sorted(range(len(row)), key=lambda v: (-row[v], v))[:k]
    np.testing.assert_array_equal(value, np.take_along_axis(x_BTV, index, axis=-1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_top_k_refuses_what_is_not_finite(bad, dtype):
    with pytest.raises(ValueError, match="top_k: scores must be finite"):
        ops.top_k(np.array([[1, bad]], dtype), 1)


@every_kind
def test_sigmoid_keeps_its_digits_where_it_almost_vanishes(on):
    x = np.concatenate([np.linspace(-85, 85, 1001), [-80, 0, 1e-30]]).astype(np.float32)
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(on(ops.sigmoid)(x), expected, rtol=5e-7)


@every_kind
def test_sigmoid_ends_at_0_and_1_without_a_warning(on):
    x = np.array([-3e38, -1000, -200, 200, 1000, 3e38], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = on(ops.sigmoid)(x)
    assert y.dtype == np.float32
    assert y.tolist() == [0, 0, 0, 1, 1, 1]


@every_kind
def test_swiglu_is_silu_of_the_gate_times_up(on):
    gate, up = np.random.default_rng(0).standard_normal((2, 5, 7), np.float32) * 9
    exact = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64))) * up
    np.testing.assert_allclose(on(ops.swiglu)(gate, up), exact, rtol=3e-6)


@every_kind
def test_a_constant_is_its_array(on):
    array = np.array([[3, 1, 2]], np.int32)
    np.testing.assert_array_equal(on(lambda x: ops.constant(x, array))(ONE_1), array)


@every_kind
@pytest.mark.parametrize("count", [1, 7, 20_000])
def test_a_range_counts_from_0_and_is_no_constant(on, count):
    numbers = on(lambda x: ops.arange(x, count))(ONE_1)
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(numbers, np.arange(count))


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.int32])
def test_a_full_tensor_is_full(on, dtype):
    tensor = on(lambda x: ops.full(x, (2, 3), 7, dtype))(ONE_1)
    assert (tensor.dtype, tensor.tolist()) == (dtype, [[7, 7, 7]] * 2)


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.int32])
def test_rows_are_put_where_they_belong_and_nowhere_else(on, dtype):
    buffer, x = np.zeros((5, 2), dtype), np.array([[1, 2], [3, 4], [5, 6]], dtype)
    on(ops.put_rows)(buffer, np.array([3, 0, 1], np.int32), x)
    assert buffer.tolist() == [[3, 4], [5, 6], [0, 0], [1, 2], [0, 0]]


@every_kind
def test_the_last_row_may_be_put_twice(on):
    buffer = np.zeros((4, 1), np.float32)
    on(ops.put_rows)(buffer, np.array([3, 1, 3], np.int32), np.ones((3, 1), np.float32))
    assert buffer.tolist() == [[0], [1], [0], [1]]


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((2, 3), BFLOAT16),
        np.ones((2, 3), np.float64),
        np.ones((1, 3), np.float32),
        np.ones((2, 1), np.float32),
        np.ones(3, np.float32),
    ],
    ids=lambda wrong: f"{wrong.dtype} {wrong.shape}",
)
def test_rows_are_neither_cast_nor_broadcast(wrong):
    buffer = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"put_rows: x is .*, expected float32 \(2, 3\)"):
        ops.put_rows(buffer, np.array([0, 1], np.int32), wrong)
    assert not buffer.any()


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("matmul", (np.ones((1, 1)),)),
        ("top_k", (1,)),
        ("constant", (np.ones(1),)),
        ("full", ((1,), 0.0, np.float32)),
        ("put_rows", (np.zeros(1, np.int32), np.ones(1))),
    ],
)
def test_a_tensor_of_unknown_kind_is_named(name, args):
    with pytest.raises(TypeError, match=f"{name}: no implementation for <class 'memoryview'>"):
        getattr(ops, name)(memoryview(b""), *args)
