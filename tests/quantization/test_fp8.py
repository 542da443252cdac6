"""Tests of block_scale: decoding of every FP8 code, and quantisation to the nearest code."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.fp8 import (
    BLOCK,
    FP8_MAX,
    BlockScaled,
    quantize,
)
from mimo_v2_flash.reference import fp8 as oracle
from tests.support.counting import counted
from tests.support.drawn import floats, seeds, tensors
from tests.support.kinds import host_kinds
from tests.support.machine import needs_numba

FINITE = [code for code in range(256) if code & 0x7F != 0x7F]
heights = st.sampled_from([1, 3, 64, 128])
shapes = st.tuples(st.sampled_from([1, 2, 5, 63, 130]), st.sampled_from([1, 3, 127, 128, 130]))


def random_codes(seed, *shape: int, height: int) -> BlockScaled:
    """Return a weight of finite codes of every kind, in blocks whose scales are far apart."""
    generator = np.random.default_rng(seed)
    *stack, outputs, inputs = shape
    grid = (*stack, -(-outputs // height), -(-inputs // BLOCK))
    scale = np.exp(generator.uniform(-4, 4, grid)).astype(np.float32)
    return BlockScaled(generator.choice(np.array(FINITE, np.uint8), shape), scale, height)


@st.composite
def stored(draw) -> BlockScaled:
    return random_codes(draw(seeds), *draw(shapes), height=draw(heights))


def midpoints() -> np.ndarray:
    """Return the midpoints between neighbouring codes, and the float32 on either side."""
    value = np.array([oracle.decode(code) for code in range(0x7F)], np.float32)
    middle = (value[1:] + value[:-1]) / 2
    return np.concatenate(
        [np.nextafter(middle, np.float32(toward)) for toward in (0, 1e9)] + [middle]
    )


def test_all_256_codes_decode_by_their_bits():
    code = np.arange(256, dtype=np.uint8).reshape(2, 128)
    decoded = BlockScaled(code, np.ones((1, 1), np.float32)).dequantize().ravel()
    expected = np.array([oracle.decode(value) for value in range(256)])
    assert np.flatnonzero(np.isnan(decoded)).tolist() == [0x7F, 0xFF]
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(np.signbit(decoded)[FINITE], np.signbit(expected)[FINITE])


@settings(max_examples=8)
@given(stored())
def test_weights_decode_as_their_oracle(w):
    np.testing.assert_allclose(w.dequantize(), oracle.dequantize(w), rtol=1e-6)


@given(stored())
def test_block_rows_are_the_whole_weight_in_order(w):
    starts = range(0, len(w), w.block_height)
    rows = [w.dequantize(slice(start, start + w.block_height)) for start in starts]
    np.testing.assert_array_equal(np.concatenate(rows), w.dequantize())


@given(stored(), st.integers(0, 140), st.integers(0, 140))
def test_any_rows_are_those_of_the_whole_weight(w, start, stop):
    rows = slice(start, stop)
    np.testing.assert_array_equal(w.dequantize(rows), w.dequantize()[rows])


@given(tensors("w_OI", O=st.integers(1, 5), I=st.sampled_from([1, 3, 130])), st.integers(1, 4))
def test_weights_are_quantised_as_their_oracle(drawn, height):
    (w_OI,) = drawn
    w = quantize(w_OI, block_height=height)
    assert (w.code.dtype, w.scale.dtype, w.block_height) == (np.uint8, np.float32, height)
    code_OI, scale_YX = oracle.quantize(w_OI, block_height=height)
    np.testing.assert_array_equal(w.scale, scale_YX)
    # Of two codes almost equally near, float32 and float64 may round to different ones.
    actual, nearest = oracle.dequantize(w), oracle.dequantize(BlockScaled(code_OI, w.scale, height))
    assert (np.abs(actual - w_OI) <= np.abs(nearest - w_OI) + 1e-6 * np.abs(w_OI)).all()


@pytest.mark.parametrize("exponent", [-100, -20, 0, 20, 119])
def test_the_nearest_code_is_taken_and_the_even_one_of_two(exponent):
    # 448 x 2^n makes the scale 2^n: nothing is rounded before the code is chosen.
    value = np.concatenate([midpoints(), -midpoints()])
    value = value[np.abs(value) <= FP8_MAX]
    w_OI = np.zeros((-(-len(value) // 127), 128), np.float32)
    w_OI[:, 0] = FP8_MAX
    w_OI[:, 1:].flat[: len(value)] = value
    w = quantize(np.ldexp(w_OI, exponent), block_height=len(w_OI))
    assert w.scale.tolist() == [[2.0**exponent]]
    np.testing.assert_array_equal(w.code, np.vectorize(oracle.encode, otypes=[np.uint8])(w_OI))


@given(seeds, shapes, heights, st.integers(-40, 38))
def test_a_weight_comes_back_within_half_a_step(seed, shape, height, magnitude):
    generator = np.random.default_rng(seed)
    # From the block's amax down to far below its smallest step, and zeros.
    spread = 2.0 ** generator.uniform(-25, 0, shape) * (generator.random(shape) < 0.9)
    sign = generator.choice([-1, 1], shape)
    w_OI = (10.0**magnitude * sign * spread).astype(np.float32)
    w = quantize(w_OI, block_height=height)
    scale_OI = BlockScaled(np.full(shape, 0x38, np.uint8), w.scale, height).dequantize()  # 1.0
    unit_OI = np.abs(w_OI.astype(np.float64) / scale_OI)
    step_OI = 2.0 ** np.maximum(np.floor(np.log2(np.maximum(unit_OI, 2.0**-9))) - 3, -9)
    error_OI = np.abs(w.dequantize().astype(np.float64) - w_OI)
    assert (error_OI <= step_OI * scale_OI / 2 * (1 + 1e-5) + 1e-45).all()


@given(stored())
def test_codes_that_fill_their_blocks_come_back(w):
    w.code[:: w.block_height, ::BLOCK] = 0x7E  # 448 in every block
    requantized = quantize(w.dequantize(), block_height=w.block_height)
    np.testing.assert_allclose(requantized.scale, w.scale, rtol=2e-7)
    np.testing.assert_array_equal(requantized.code, w.code)


def test_a_block_of_zeros_has_scale_one():
    w_OI = np.zeros((128, 129), np.float32)
    w_OI[0, 128] = 896
    w = quantize(w_OI, block_height=64)
    assert w.scale.tolist() == [[1, 2], [1, 1]]
    np.testing.assert_array_equal(w.dequantize(), w_OI)


@pytest.mark.parametrize("largest", [1e-45, 1e-44, 6e-43, 1e-40, 1e-37, 3.4e38])
def test_weights_at_the_ends_of_float32_keep_their_size(largest):
    w = quantize(np.array([[largest, -largest, 0]], np.float32))
    assert np.isfinite(w.scale).all()
    np.testing.assert_allclose(w.dequantize(), [[largest, -largest, 0]], rtol=0.07, atol=1.2e-41)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_is_not_finite_is_refused(bad, dtype):
    with pytest.raises(ValueError, match="quantize: w_OI must be finite"):
        quantize(np.array([[1, bad]], dtype))


@pytest.mark.parametrize(
    ("code", "grid", "height"),
    [((128, 128), (2, 1), 128), ((192, 128), (2, 1), 64), ((3, 130, 5), (3, 1, 1), 128)],
)
def test_a_grid_of_another_shape_is_refused_with_both_shapes(code, grid, height):
    with pytest.raises(ValueError, match="BlockScaled: scale is") as error:
        BlockScaled(np.zeros(code, np.uint8), np.ones(grid, np.float32), height)
    assert str(grid) in str(error.value)
    assert str(code) in str(error.value)


def test_one_of_a_stack_is_a_view():
    w = random_codes(0, 4, 130, 5, height=64)
    assert (len(w), w.shape, w[2].shape, w[2].block_height) == (4, (4, 130, 5), (130, 5), 64)
    assert np.shares_memory(w[2].code, w.code)
    assert np.shares_memory(w[2].scale, w.scale)
    np.testing.assert_array_equal(w.dequantize()[2], w[2].dequantize())


@host_kinds
@given(stored(), st.integers(1, 300), floats, seeds)
def test_a_matmul_is_that_of_the_decoded_weight(on, w, N, dtype, seed):
    x_NI = np.random.default_rng(seed).standard_normal((N, w.shape[1])).astype(dtype)
    y_NO = on(ops.matmul)(x_NI, w)
    expected_NO = x_NI.astype(np.float64) @ w.dequantize().astype(np.float64).T
    summed = np.max(np.abs(x_NI.astype(np.float64)) @ np.abs(w.dequantize().astype(np.float64)).T)
    assert y_NO.dtype == np.float32
    np.testing.assert_allclose(y_NO, expected_NO, rtol=0, atol=1e-6 * summed)


@host_kinds
def test_a_stack_is_multiplied_one_by_one(on):
    w = random_codes(1, 3, 130, 140, height=64)
    x = np.random.default_rng(0).standard_normal((3, 2, 140)).astype(np.float32)
    expected = np.stack([ops.matmul(x[e], w[e]) for e in range(3)])
    # Sums in another order differ by their terms' size, not by that of a small sum.
    error = np.max(np.abs(on(ops.matmul)(x, w) - expected))
    assert error < 1e-6 * np.max(np.abs(expected))


@needs_numba
@pytest.mark.parametrize("N", [1, 64])
def test_a_matmul_never_holds_the_decoded_weight(N):
    w = random_codes(0, 2048, 512, height=128)
    x_NI = np.ones((N, 512), np.float32)
    with counted() as cost:
        y_NO = ops.matmul(x_NI, w)
    assert cost.peak_bytes < y_NO.nbytes + w.code.size * 4 / 2  # half of it, decoded
