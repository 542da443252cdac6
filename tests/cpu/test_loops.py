"""Tests of compiled_loops: each loop fills exactly its columns or rows, with NumPy's values."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu import loops
from mimo_v2_flash.cpu.tile import interleave_words
from mimo_v2_flash.quantization.fp8 import E4M3_VALUES, BlockScaled, dequantize
from tests.support.drawn import seeds
from tests.support.stored_weights import (
    HEIGHTS,
    INPUTS,
    OUTPUTS,
    assert_is_product,
    random_float8,
    random_rows,
)

UNTOUCHED = np.float32(-77)
ALL_CODES = np.arange(256, dtype=np.uint8)


@st.composite
def parts(draw) -> tuple[int, int, int]:
    """Draw (outputs, start, end): a range of rows that may begin and end anywhere."""
    outputs = draw(st.sampled_from(OUTPUTS))
    start, end = sorted(draw(st.tuples(st.integers(0, outputs), st.integers(0, outputs))))
    return outputs, start, end


def assert_part_is_product(fill, x_NI, w, start: int, end: int) -> None:
    """Assert that `fill` writes the product into columns `start` to `end`, and no others."""
    y_NO = np.full((len(x_NI), w.shape[0]), UNTOUCHED)
    fill(y_NO)
    expected_NO = y_NO.copy()
    expected_NO[:, :start], expected_NO[:, end:] = UNTOUCHED, UNTOUCHED
    np.testing.assert_array_equal(y_NO, expected_NO)
    whole = w if isinstance(w, np.ndarray) else dequantize(w)
    assert_is_product(y_NO[:, start:end], x_NI, whole[start:end])


@given(parts(), st.sampled_from(INPUTS), st.sampled_from(HEIGHTS), st.integers(1, 9), seeds)
def test_rows_of_float8_fill_their_part(part, inputs, height, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w, x_NI = random_float8(generator, outputs, inputs, height), random_rows(generator, N, inputs)
    code_OI = w.code.view(np.int8)
    assert_part_is_product(
        lambda y_NO: loops.float8_rows(
            interleave_words(x_NI, 1), code_OI, w.scale, y_NO, *span, height
        ),
        x_NI,
        w,
        *span,
    )


@given(parts(), st.sampled_from(INPUTS), st.integers(1, 9), seeds)
def test_rows_of_bfloat16_and_float32_fill_their_part(part, inputs, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w_OI, x_NI = random_rows(generator, outputs, inputs), random_rows(generator, N, inputs)
    narrow_OI = w_OI.astype(ml_dtypes.bfloat16)
    bits_OI = narrow_OI.view(np.uint16)
    assert_part_is_product(
        lambda y_NO: loops.float32_rows(x_NI, w_OI, y_NO, *span), x_NI, w_OI, *span
    )
    assert_part_is_product(
        lambda y_NO: loops.bfloat16_rows(interleave_words(x_NI, 2), bits_OI, y_NO, *span),
        x_NI,
        narrow_OI,
        *span,
    )


@given(parts(), st.sampled_from(INPUTS), st.sampled_from(HEIGHTS), seeds)
def test_tiles_of_float8_are_the_decoded_rows(part, inputs, height, seed):
    outputs, start, end = part
    w = random_float8(np.random.default_rng(seed), outputs, inputs, height)
    tile_OI = np.full((end - start, inputs), UNTOUCHED)
    loops.float8_tile(w.code.view(np.int8), w.scale, tile_OI, start, height)
    np.testing.assert_array_equal(tile_OI, dequantize(w)[start:end])


@given(parts(), st.sampled_from(INPUTS), seeds)
def test_tiles_of_bfloat16_are_the_widened_rows(part, inputs, seed):
    outputs, start, end = part
    w_OI = random_rows(np.random.default_rng(seed), outputs, inputs).astype(ml_dtypes.bfloat16)
    tile_OI = np.full((end - start, inputs), UNTOUCHED)
    loops.bfloat16_tile(w_OI.view(np.uint16), tile_OI, start)
    np.testing.assert_array_equal(tile_OI, w_OI[start:end].astype(np.float32))


def test_every_pattern_of_bfloat16_is_kept():
    bits_OI = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    tile_OI = np.empty((256, 256), np.float32)
    loops.bfloat16_tile(bits_OI, tile_OI, 0)
    expected_OI = bits_OI.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(tile_OI), np.isnan(expected_OI))
    kept_OI = ~np.isnan(expected_OI)
    np.testing.assert_array_equal(
        tile_OI.view(np.uint32)[kept_OI], expected_OI.view(np.uint32)[kept_OI]
    )


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 300])
def test_codes_that_are_no_numbers_are_seen_wherever_they_are(length):
    finite_O = ALL_CODES[np.isfinite(E4M3_VALUES)]
    for position in range(length):
        for code in ALL_CODES if position == length // 2 else (0x7F, 0xFF):
            code_I = np.resize(finite_O, length)
            code_I[position] = code
            assert loops._holds_nan(code_I.view(np.int8)) == np.isnan(E4M3_VALUES[code])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_x_stays_in_its_row(bad):
    generator = np.random.default_rng(0)
    w, x_NI = random_float8(generator, 10, 140), random_rows(generator, 5, 140)
    w = BlockScaled(np.maximum(w.code & 0x7F, 1), w.scale)  # positive: infinity stays infinite
    x_NI[2, 7] = bad
    y_NO = np.empty((5, 10), np.float32)
    loops.float8_rows(interleave_words(x_NI, 1), w.code.view(np.int8), w.scale, y_NO, 0, 10, 128)
    np.testing.assert_array_equal(y_NO[2], np.full(10, bad, np.float32))
    assert np.isfinite(np.delete(y_NO, 2, axis=0)).all()
