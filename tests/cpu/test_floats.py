"""Tests of the loops of plain weights: each fills exactly its part, with NumPy's values."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu import floats
from mimo_v2_flash.cpu.tile import LANES, interleave_words
from tests.support.drawn import seeds
from tests.support.packed_parts import PackedPart, assert_packed, packed_parts
from tests.support.part_products import assert_part_is_product, parts
from tests.support.stored_weights import INPUTS, random_rows


@given(parts(), st.sampled_from(INPUTS), st.integers(1, 9), seeds)
def test_rows_of_bfloat16_and_float32_fill_their_part(part, inputs, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w_OI, x_NI = random_rows(generator, outputs, inputs), random_rows(generator, N, inputs)
    narrow_OI = w_OI.astype(ml_dtypes.bfloat16)
    bits_OI = narrow_OI.view(np.uint16)
    assert_part_is_product(
        lambda y_NO: floats.float32_rows(x_NI, w_OI, y_NO, *span), x_NI, w_OI, *span
    )
    assert_part_is_product(
        lambda y_NO: floats.bfloat16_rows(interleave_words(x_NI, 2), bits_OI, y_NO, *span),
        x_NI,
        narrow_OI,
        *span,
    )


@given(packed_parts(), seeds)
def test_packed_rows_are_the_widened_rows(part, seed):
    w_OI = random_rows(np.random.default_rng(seed), part.outputs, part.inputs)
    narrow_OI = w_OI.astype(ml_dtypes.bfloat16)
    assert_packed(part, floats.float32_packer, (w_OI.ctypes.data, 0, 0), w_OI)
    assert_packed(part, floats.bfloat16_packer, (narrow_OI.ctypes.data, 0, 0), narrow_OI)


def test_every_pattern_of_bfloat16_is_kept():
    bits_OI = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    w_OI = bits_OI.view(ml_dtypes.bfloat16)
    for o in range(0, 256, LANES):
        part = PackedPart(256, 256, o, 0, 256)
        assert_packed(part, floats.bfloat16_packer, (bits_OI.ctypes.data, 0, 0), w_OI)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_an_array_is_read_where_it_is(dtype):
    w_OI = random_rows(np.random.default_rng(0), 7, 9).astype(dtype)
    weight = floats.compiled_array(w_OI)
    assert weight.itemsize == w_OI.itemsize
    assert np.shares_memory(weight[0], w_OI)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_the_loops_cannot_read_is_left_to_numpy(dtype):
    w_OI = random_rows(np.random.default_rng(0), 300, 260).astype(dtype)
    unaligned = np.empty(w_OI.nbytes + 1, np.uint8)[1:].view(dtype).reshape(w_OI.shape)
    for w in (unaligned, np.asfortranarray(w_OI), np.repeat(w_OI, 2, axis=0)[::2]):
        assert floats.compiled_array(w) is None
    assert floats.compiled_array(w_OI.astype(np.float64)) is None
