"""Weights in formats of blocks, of any codes and scales, and what all of these formats must do."""

from typing import Any

import numpy as np
import pytest

from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization import get_format
from mimo_v2_flash.quantization.ggml_blocks import GgmlBlocks
from mimo_v2_flash.quantization.quantized_tensor import QuantizedTensor
from mimo_v2_flash.quantization.scaled_codes import ScaledCodes
from tests.support.ggml import ggml_quantized, gguf_dequantized
from tests.support.stored_weights import assert_is_product, random_float8, random_rows

FEW = 16  # `cpu.matmul.MAX_REGISTER_ROWS`, which needs numba
ROWS = [1, 2, 3, 5, FEW, FEW + 1, 300]


def random_blocks(generator: np.random.Generator, name: str, outputs: int, blocks: int) -> Any:
    """Return blocks of any bytes, with scales that are far apart; INT8 has blocks of 128."""
    form: Any = get_format(name)
    if not issubclass(form, GgmlBlocks):
        return _random_codes(generator, form, outputs, blocks)
    data = generator.integers(0, 256, (outputs * blocks, form.block_bytes), np.uint8)
    scales = data[:, form.scales]
    exponent = generator.uniform(-14, 2, (len(data), scales.shape[1] // 2))
    scales[:] = (
        (np.exp2(exponent) * generator.choice([-1, 1], exponent.shape))
        .astype(np.float16)
        .view(np.uint8)
    )
    return form(data.reshape(outputs, -1))


def _random_codes(
    generator: np.random.Generator, form: Any, outputs: int, blocks: int
) -> ScaledCodes:
    shapes = form.stored_shapes((outputs, blocks * columns_of(form.format)))
    code = generator.integers(0, 256, shapes["code"], np.uint8).view(form.tensors[0].dtype)
    scale = np.exp2(generator.uniform(-14, 2, shapes["scale"])).astype(np.float32)
    if form.tensors[1].dtype is np.uint8:
        scale = generator.integers(110, 130, scale.shape, np.uint8)
    return form(code, scale)


def columns_of(name: str) -> int:
    """Return the columns of a block that `random_blocks` makes."""
    form = get_format(name)
    return form.block if form.block > 1 else 128


def compiled_columns(name: str) -> int:
    """Return of how many columns the compiled loops read a multiple."""
    return 128 if name == "mxfp4" else columns_of(name)


def drawn_rows(seed: int, outputs: int, inputs: int) -> np.ndarray:
    """Return float32 rows: normal ones, zeros of both signs, the smallest number, an outlier."""
    generator = np.random.default_rng(seed)
    w_OI = generator.standard_normal((outputs, inputs), np.float32) * np.float32(0.02)
    w_OI[generator.random(w_OI.shape) < 0.1] = -0.0
    w_OI[0] = 0
    w_OI[1 % outputs, ::2] = np.float32(1e-45)
    w_OI[2 % outputs, 5] = 1e4
    w_OI[3 % outputs] = np.float32(-0.5)
    w_OI[4 % outputs] = np.abs(w_OI[4 % outputs])
    return w_OI


def assert_dequantized_as_gguf(name: str, seed: int) -> None:
    """Assert that any bytes are the numbers that the `gguf` package makes of them, to the bit."""
    w = random_blocks(np.random.default_rng(seed), name, 9, 3)
    np.testing.assert_array_equal(w.dequantize(), gguf_dequantized(name, w.data))
    np.testing.assert_array_equal(w.dequantize(slice(2, 5)), w.dequantize()[2:5])


def assert_compiled_is_plain(name: str, seed: int) -> None:
    """Assert that the compiled quantizer has the bytes of NumPy's."""
    form: Any = get_format(name)
    generator = np.random.default_rng(seed)
    for w_OI in (drawn_rows(seed, 12, 2 * form.block), random_rows(generator, 40, form.block)):
        blocks = w_OI.reshape(-1, form.block)
        with np.errstate(all="ignore"):
            expected = form.encode_blocks(blocks)
            np.testing.assert_array_equal(form.encode_fast(blocks), expected)


def assert_is_as_good_as_ggml(name: str, seed: int) -> None:
    """Assert that the error of drawn rows is at most 1% more than that of ggml's own quantizer."""
    generator, form = np.random.default_rng(seed), get_format(name)
    for w_OI in (
        generator.standard_normal((32, 512), np.float32) * np.float32(0.02),
        generator.standard_t(5, (32, 512)).astype(np.float32),
    ):
        of_ggml = gguf_dequantized(name, ggml_quantized(name, w_OI))
        error = np.linalg.norm(form.quantize(w_OI).dequantize() - w_OI)
        assert error <= 1.01 * np.linalg.norm(of_ggml - w_OI)


def assert_is_refused_beyond_its_scales(name: str) -> None:
    """Assert that an outlier which float16 scales cannot hold is refused by name."""
    form = get_format(name)
    w_OI = np.full((2, 2 * form.block), 0.1, np.float32)
    w_OI[1, 3] = -1e30
    with pytest.raises(ValueError, match=rf"up holds 1e\+30, too much for {name}'s float16 scales"):
        form.quantize(w_OI, "up")


def assert_is_multiplied(w: QuantizedTensor, seed: int) -> None:
    """Assert the product of 1 to 300 rows with a weight, and that of its shards."""
    generator = np.random.default_rng(seed)
    assert (w.compiled is None) == (compiled_module("matmul") is None)
    for N in ROWS:
        x_NI = random_rows(generator, N, w.shape[1])
        y_NO = ops.matmul(x_NI, w)
        assert_is_product(y_NO, x_NI, w.dequantize())
        columns = compiled_columns(w.format)
        half = w.shape[1] // columns // 2 * columns
        parts = [w.shard(1, range(half)), w.shard(1, range(half, w.shape[1]))]
        summed = ops.matmul(x_NI[:, :half], parts[0]) + ops.matmul(x_NI[:, half:], parts[1])
        assert_is_product(summed, x_NI, w.dequantize())
        rows = ops.matmul(x_NI, w.shard(0, range(3, w.shape[0])))
        assert_is_product(rows, x_NI, w.dequantize(slice(3, None)))


def assert_sums_are_of_rows(w: QuantizedTensor, seed: int) -> None:
    """Assert that an output of compiled loops does not depend on the other rows of x."""
    if compiled_module("matmul") is None:
        return  # BLAS sums other numbers of rows in other orders
    x_NI = random_rows(np.random.default_rng(seed), FEW, w.shape[1])
    y_NO = ops.matmul(x_NI, w)
    for rows in (slice(0, 1), slice(3, 5), slice(8, 11)):
        np.testing.assert_array_equal(ops.matmul(x_NI[rows], w), y_NO[rows])


def assert_is_quantized_by_rows(name: str) -> None:
    """Assert that FP8 is quantized from its exact numbers, in parts, and what cannot be refused."""
    form, generator = get_format(name), np.random.default_rng(0)
    w = random_float8(generator, 300, 4 * max(form.block, 128))
    expected = form.quantize(w.dequantize())
    for tensor in form.tensors:
        actual = getattr(form.quantize(w), tensor.field)
        np.testing.assert_array_equal(actual, getattr(expected, tensor.field))
    assert expected.nbytes == sum(
        np.dtype(tensor.dtype).itemsize * np.prod(shape)
        for tensor, shape in zip(form.tensors, form.stored_shapes(w.shape).values(), strict=True)
    )
    for bad in (np.nan, np.inf, -np.inf):
        w_OI = np.ones((3, 2 * max(form.block, 128)), np.float32)
        w_OI[1, 7] = bad
        with pytest.raises(ValueError, match="layer 3: up holds NaN or infinity"):
            form.quantize(w_OI, "layer 3: up")
    if form.block > 1:
        message = f"up has {form.block + 1} columns, {name} stores multiples of {form.block}"
        with pytest.raises(ValueError, match=message):
            form.quantize(np.ones((3, form.block + 1), np.float32), "up")
