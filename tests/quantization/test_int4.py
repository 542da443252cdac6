"""INT4: every code, the nearest codes, products."""

import numpy as np

from mimo_v2_flash.quantization import get_format
from tests.support.stored_blocks import (
    assert_is_multiplied,
    assert_is_quantized_by_rows,
    assert_sums_are_of_rows,
    drawn_rows,
    random_blocks,
)

FORM = get_format("int4")


def test_lower_bits_are_the_first_16_of_32_columns():
    code = np.zeros((1, 64), np.uint8)
    code[0, :2], code[0, 17] = [0x21, 0x87], 0xF0
    w = FORM(code, np.full((1, 1), 0.5, np.float32))
    columns = {0: 0.5, 1: 3.5, 16: 1, 17: -4, 49: -0.5}
    expected = np.zeros(128, np.float32)
    expected[list(columns)] = list(columns.values())
    np.testing.assert_array_equal(w.dequantize()[0], expected)


def test_codes_are_the_nearest_whatever_is_drawn():
    w_OI = drawn_rows(0, 9, 256)
    w = FORM.quantize(w_OI)
    half_step = np.repeat(w.scale, 128, axis=1) / 2
    assert np.all(np.abs(w.dequantize() - w_OI) <= half_step * np.float32(1.00001))


def test_products_are_those_of_its_numbers():
    w = random_blocks(np.random.default_rng(0), "int4", 67, 5)
    assert_is_multiplied(w, 0)
    assert_sums_are_of_rows(w, 1)


def test_it_is_quantized_by_rows_and_what_it_cannot_is_refused():
    assert_is_quantized_by_rows("int4")
