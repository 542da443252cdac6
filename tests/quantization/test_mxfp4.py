"""MXFP4: OCP's numbers and scales, the nearest codes, products."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization import get_format
from tests.support.stored_blocks import (
    assert_is_multiplied,
    assert_is_quantized_by_rows,
    assert_sums_are_of_rows,
    drawn_rows,
    random_blocks,
)
from tests.support.stored_weights import assert_is_product

FORM = get_format("mxfp4")


def test_numbers_and_scales_are_ocps():
    code = np.zeros((1, 16), np.uint8)
    code[0, :8] = [0x21, 0x43, 0x65, 0x07, 0xA9, 0xCB, 0xED, 0x8F]
    w = FORM(code, np.array([[127]], np.uint8))
    numbers = [0.5, 1, 1.5, 2, 3, 4, 6, 0]
    expected = [*numbers, *(-number for number in numbers)]
    np.testing.assert_array_equal(w.dequantize()[0, :16], expected)
    assert FORM(code, np.array([[130]], np.uint8)).dequantize()[0, 6] == 48


def test_any_bytes_are_the_numbers_of_gguf():
    """Its blocks begin with the scale, and their nibbles lie in another order."""
    w = random_blocks(np.random.default_rng(0), "mxfp4", 9, 3)
    nibbles = np.stack([w.code & 15, w.code >> 4], axis=-1).reshape(27, 2, 16)
    blocks = np.concatenate([w.scale.reshape(27, 1), nibbles[:, 0] | nibbles[:, 1] << 4], axis=1)
    expected = dequantize(blocks.reshape(9, -1), GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(w.dequantize(), expected)


def test_codes_are_the_nearest_and_halves_go_to_even_codes():
    row = [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -5, 7.9, 0.2, *[0] * 20]
    w = FORM.quantize(np.array([row], np.float32))
    expected = [6, 0, 1, 1, 2, 2, 4, 4, 0, -4, 6, 0]
    np.testing.assert_array_equal(w.scale, [[127]])
    np.testing.assert_array_equal(w.dequantize()[0, :12], expected)


def test_the_largest_number_decides_the_scale_whatever_is_drawn():
    w_OI = drawn_rows(0, 9, 64)
    w, top_OG = FORM.quantize(w_OI), np.abs(w_OI).reshape(9, 2, 32).max(axis=2)
    error_OG = np.abs(w.dequantize() - w_OI).reshape(9, 2, 32).max(axis=2)
    assert np.all(error_OG <= top_OG / 4 + 1e-44)
    assert w.scale[0, 0] == 127
    assert w.scale.min() >= 1


def test_a_scale_that_is_nan_is_refused():
    w = random_blocks(np.random.default_rng(0), "mxfp4", 3, 2)
    w.check_values("up")
    w.scale[1, 1] = 255
    with pytest.raises(ValueError, match="up: its weight_scale holds NaN"):
        w.check_values("up")


def test_random_weights_are_the_nearest_codes_of_their_numbers():
    numbers = np.linspace(-3, 3, 64, dtype=np.float32)
    order = np.random.default_rng(0).permutation(64)
    w = FORM.random((2, 32), numbers, lambda table: table[order].reshape(2, 32))
    assert (w.code.shape, w.scale.shape) == ((2, 16), (2, 1))
    expected = FORM.quantize(numbers[None]).dequantize()[0]
    assert {*w.scale.flat} == {126}  # the largest number, 3, is 6 x 2^-1
    np.testing.assert_allclose(w.dequantize().ravel(), expected[order], atol=0.25)


def test_products_are_those_of_its_numbers():
    w = random_blocks(np.random.default_rng(0), "mxfp4", 67, 20)
    assert_is_multiplied(w, 0)
    assert_sums_are_of_rows(w, 1)
    narrow, x_NI = w.shard(1, range(96)), np.ones((3, 96), np.float32)
    assert narrow.compiled is None
    assert_is_product(ops.matmul(x_NI, narrow), x_NI, narrow.dequantize())


def test_it_is_quantized_by_rows_and_what_it_cannot_is_refused():
    assert_is_quantized_by_rows("mxfp4")


def test_a_mapped_weights_scales_are_checked_once_when_it_is_first_used():
    drawn = random_blocks(np.random.default_rng(0), "mxfp4", 3, 2)
    arrays = {"code": drawn.code, "scale": drawn.scale}
    w = FORM.from_checkpoint("file: up", drawn.shape, arrays)
    assert "scale" not in vars(w)
    np.testing.assert_array_equal(w.dequantize(), drawn.dequantize())
    assert w.scale is drawn.scale
    drawn.scale[2, 1] = 255
    bad = FORM.from_checkpoint("file: up", drawn.shape, arrays)
    for use in (bad.dequantize, lambda: ops.matmul(np.ones((1, bad.shape[1]), np.float32), bad)):
        with pytest.raises(ValueError, match=r"^file: up: its weight_scale holds NaN"):
            use()
