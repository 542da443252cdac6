"""Tests of the FP8 loops: each fills exactly its columns or rows, with NumPy's values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu import fp8
from mimo_v2_flash.cpu.tile import interleave_words
from mimo_v2_flash.quantization.fp8 import E4M3_VALUES, BlockScaled
from tests.support.drawn import seeds
from tests.support.packed_parts import assert_packed, packed_parts
from tests.support.part_products import assert_part_is_product, parts
from tests.support.stored_weights import (
    HEIGHTS,
    INPUTS,
    random_float8,
    random_rows,
)

ALL_CODES = np.arange(256, dtype=np.uint8)


@given(parts(), st.sampled_from(INPUTS), st.sampled_from(HEIGHTS), st.integers(1, 9), seeds)
def test_rows_of_float8_fill_their_part(part, inputs, height, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w, x_NI = random_float8(generator, outputs, inputs, height), random_rows(generator, N, inputs)
    code_OI = w.code.view(np.int8)
    assert_part_is_product(
        lambda y_NO: fp8.float8_rows(
            interleave_words(x_NI, 1), code_OI, w.scale, y_NO, *span, height
        ),
        x_NI,
        w,
        *span,
    )


@given(packed_parts(), st.sampled_from(HEIGHTS), seeds)
def test_packed_rows_are_the_decoded_rows(part, height, seed):
    w = random_float8(np.random.default_rng(seed), part.outputs, part.inputs, height)
    address = w.code.ctypes.data, w.scale.ctypes.data, height
    assert_packed(part, fp8.float8_packer, address, w.dequantize())


@given(packed_parts(), st.sampled_from(ALL_CODES), seeds)
def test_codes_that_are_no_numbers_spoil_their_rows(part, code, seed):
    """Every code, wherever it is: in whole vectors, in what is left, beside zeros."""
    generator = np.random.default_rng(seed)
    w = random_float8(generator, part.outputs, part.inputs)
    w.code[generator.random(w.code.shape) < 0.003] = code
    address = w.code.ctypes.data, w.scale.ctypes.data, w.block_height
    assert_packed(part, fp8.float8_packer, address, w.dequantize())


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 300])
def test_codes_that_are_no_numbers_are_seen_wherever_they_are(length):
    finite_O = ALL_CODES[np.isfinite(E4M3_VALUES)]
    for position in range(length):
        for code in ALL_CODES if position == length // 2 else (0x7F, 0xFF):
            code_I = np.resize(finite_O, length)
            code_I[position] = code
            assert fp8._holds_nan(code_I.view(np.int8)) == np.isnan(E4M3_VALUES[code])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_x_stays_in_its_row(bad):
    generator = np.random.default_rng(0)
    w, x_NI = random_float8(generator, 10, 140), random_rows(generator, 5, 140)
    w = BlockScaled(np.maximum(w.code & 0x7F, 1), w.scale)  # positive: infinity stays infinite
    x_NI[2, 7] = bad
    y_NO = np.empty((5, 10), np.float32)
    fp8.float8_rows(interleave_words(x_NI, 1), w.code.view(np.int8), w.scale, y_NO, 0, 10, 128)
    np.testing.assert_array_equal(y_NO[2], np.full(10, bad, np.float32))
    assert np.isfinite(np.delete(y_NO, 2, axis=0)).all()
