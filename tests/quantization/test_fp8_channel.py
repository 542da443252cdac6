"""FP8 by channel: codes and a scale for each row, products, and what is refused."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization import find_format, get_format
from tests.support.stored_weights import assert_is_product

FORM = get_format("fp8_channel")


def drawn(outputs: int = 67, inputs: int = 200, scale_dtype: object = np.float32):
    """Return the tensors of a weight by name, and its numbers."""
    random = np.random.default_rng(0)
    code = random.standard_normal((outputs, inputs)).astype(ml_dtypes.float8_e4m3fn)
    scale = np.exp(random.uniform(-4, 4, (outputs, 1))).astype(scale_dtype)
    tensors = {"up.weight": code.view(np.uint8), "up.weight_scale": scale}
    return tensors, code.astype(np.float32) * scale.astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_it_is_found_by_its_dtypes_and_read_exactly(dtype):
    tensors, truth = drawn(scale_dtype=dtype)
    assert find_format(tensors, "up.weight") is FORM
    w = FORM.from_checkpoint("up", truth.shape, FORM.read(tensors, "up.weight"))
    np.testing.assert_array_equal(w.dequantize(), truth)
    np.testing.assert_array_equal(w.dequantize(slice(3, 9)), truth[3:9])


@pytest.mark.parametrize("rows", [1, 3, 70])
def test_products_are_those_of_its_numbers(rows):
    tensors, truth = drawn()
    w = FORM.from_checkpoint("up", truth.shape, FORM.read(tensors, "up.weight"))
    x_NI = np.random.default_rng(1).standard_normal((rows, truth.shape[1])).astype(np.float32)
    assert_is_product(ops.matmul(x_NI, w), x_NI, truth)


def test_shards_are_slices():
    tensors, truth = drawn()
    w = FORM.from_checkpoint("up", truth.shape, FORM.read(tensors, "up.weight"))
    np.testing.assert_array_equal(w.shard(0, range(5, 9)).dequantize(), truth[5:9])
    np.testing.assert_array_equal(w.shard(1, range(30, 71)).dequantize(), truth[:, 30:71])


def test_the_largest_number_of_a_row_decides_its_scale():
    w_OI = np.random.default_rng(2).standard_normal((5, 30)).astype(np.float32)
    w = FORM.quantize(w_OI)
    assert np.all((w.code & 0x7F).max(axis=1) == 0x7E)
    error_OI = np.abs(w.dequantize() - w_OI)
    assert np.all(error_OI <= np.abs(w_OI).max(axis=1, keepdims=True) / 28)


@pytest.mark.parametrize("shape", [(67,), (67, 2), (66, 1)])
def test_scales_of_another_shape_are_refused(shape):
    tensors, truth = drawn()
    tensors["up.weight_scale"] = np.ones(shape, np.float32)
    with pytest.raises(ValueError, match=r"^up: codes are .* the config asks for"):
        FORM.check("up", truth.shape, FORM.read(tensors, "up.weight"))


def test_codes_and_scales_that_are_no_numbers_are_refused():
    tensors, truth = drawn()
    w = FORM.from_checkpoint("up", truth.shape, FORM.read(tensors, "up.weight"))
    w.check_values("up")
    w.code[3, 4] = 0xFF
    with pytest.raises(ValueError, match="up: holds NaN"):
        w.check_values("up")
    w.code[3, 4], w.scale[2] = 0, np.inf
    with pytest.raises(ValueError, match="up: its weight_scale holds NaN or infinity"):
        w.check_values("up")
