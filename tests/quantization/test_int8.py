"""INT8: the nearest codes by groups and by rows, products, shards."""

import numpy as np
import pytest

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization import get_format
from mimo_v2_flash.quantization.int8 import quantize_by_row
from tests.support.stored_blocks import (
    assert_is_multiplied,
    assert_is_quantized_by_rows,
    assert_sums_are_of_rows,
    drawn_rows,
    random_blocks,
)
from tests.support.stored_weights import assert_is_product, random_rows

FORM = get_format("int8")


@pytest.mark.parametrize("inputs", [256, 200])
def test_codes_are_the_nearest_whatever_is_drawn(inputs):
    w_OI = drawn_rows(0, 9, inputs)
    w = FORM.quantize(w_OI)
    assert w.scale.shape == (9, inputs // 128 if inputs % 128 == 0 else 1)
    half_step = np.repeat(w.scale, inputs // w.scale.shape[1], axis=1) / 2
    assert np.all(np.abs(w.dequantize() - w_OI) <= half_step * np.float32(1.00001))
    assert np.abs(w.code[0]).max() == 0


def test_a_row_may_have_one_scale():
    generator = np.random.default_rng(0)
    w_OI, x_NI = generator.standard_normal((67, 384), np.float32), random_rows(generator, 20, 384)
    w = quantize_by_row(w_OI)
    np.testing.assert_array_equal(w.scale[:, 0], np.max(np.abs(w_OI), axis=1) / np.float32(127))
    for N in (1, 20):
        assert_is_product(ops.matmul(x_NI[:N], w), x_NI[:N], w.dequantize())
    part = w.shard(1, range(5, 77))
    assert part.compiled is None
    np.testing.assert_array_equal(part.dequantize(), w.dequantize()[:, 5:77])
    assert_is_product(ops.matmul(x_NI[:, 5:77], part), x_NI[:, 5:77], part.dequantize())


def test_products_are_those_of_its_numbers():
    w = random_blocks(np.random.default_rng(0), "int8", 67, 5)
    assert_is_multiplied(w, 0)
    assert_sums_are_of_rows(w, 1)


def test_it_is_quantized_by_rows_and_what_it_cannot_is_refused():
    assert_is_quantized_by_rows("int8")
