"""Q8_0: ggml's bytes and numbers, its products, and what it refuses."""

import numpy as np
from hypothesis import given, settings

from mimo_v2_flash.quantization import get_format
from tests.support.drawn import seeds
from tests.support.ggml import ggml_quantized
from tests.support.stored_blocks import (
    assert_compiled_is_plain,
    assert_dequantized_as_gguf,
    assert_is_multiplied,
    assert_is_quantized_by_rows,
    assert_is_refused_beyond_its_scales,
    assert_sums_are_of_rows,
    drawn_rows,
    random_blocks,
)

FORM = get_format("q8_0")


@given(seeds)
@settings(max_examples=10)
def test_any_bytes_are_the_numbers_of_gguf(seed):
    assert_dequantized_as_gguf("q8_0", seed)


@given(seeds)
@settings(max_examples=10)
def test_bytes_are_ggmls(seed):
    w_OI = drawn_rows(seed, 7, 96)
    np.testing.assert_array_equal(FORM.quantize(w_OI).data, ggml_quantized("q8_0", w_OI))


@given(seeds)
@settings(max_examples=10)
def test_the_compiled_quantizer_has_the_bytes_of_numpys(seed):
    assert_compiled_is_plain("q8_0", seed)


def test_halves_are_rounded_away_from_zero():
    w_OI = np.array([[127, 0.5, -0.5, 1.5, -2.5, 0.49999997, *[0] * 26]], np.float32)
    codes = FORM.quantize(w_OI).data[0, 2:8].view(np.int8)
    np.testing.assert_array_equal(codes, [127, 1, -1, 2, -3, 0])


def test_products_are_those_of_its_numbers():
    w = random_blocks(np.random.default_rng(0), "q8_0", 131, 11)
    assert_is_multiplied(w, 0)
    assert_sums_are_of_rows(w, 1)


def test_it_is_quantized_by_rows_and_what_it_cannot_is_refused():
    assert_is_quantized_by_rows("q8_0")
    assert_is_refused_beyond_its_scales("q8_0")
