"""ggml's blocks as a format of the package: names, shapes, shards, refusals."""

import numpy as np
import pytest

from mimo_v2_flash.quantization import AxisSlice, find_format, get_format
from mimo_v2_flash.quantization.ggml_blocks import half_bytes
from tests.support.stored_blocks import random_blocks

FORM = get_format("q8_0")
W = random_blocks(np.random.default_rng(0), "q8_0", 6, 4)
TENSORS = {"up.weight_q8_0": W.data}


def test_a_checkpoint_has_its_bytes_under_a_name_of_its_format():
    assert find_format(TENSORS, "up.weight") is FORM
    arrays = FORM.read(TENSORS, "up.weight")
    FORM.check("up.weight", (6, 128), arrays)
    w = FORM.from_checkpoint("up.weight", (6, 128), arrays)
    assert w.data is W.data
    assert w.shape == (6, 128)
    assert FORM.stored_shapes((6, 128)) == {"data": W.data.shape}
    with pytest.raises(ValueError, match="up is \\(6, 128\\), the config asks for \\(6, 64\\)"):
        FORM.from_checkpoint("up", (6, 64), arrays)
    message = "up: its weight_q8_0 is \\(6, 136\\), the config asks for \\(6, 68\\)"
    with pytest.raises(ValueError, match=message):
        FORM.check("up", (6, 64), arrays)
    with pytest.raises(ValueError, match="q8_0 stores multiples of 32 columns, not 65"):
        FORM.stored_shapes((6, 65))


def test_a_shard_lies_between_blocks():
    np.testing.assert_array_equal(W.shard(0, range(2, 5)).dequantize(), W.dequantize()[2:5])
    np.testing.assert_array_equal(W.shard(1, range(32, 96)).dequantize(), W.dequantize()[:, 32:96])
    shapes = {"data": W.data.shape}
    columns = FORM.shard_tensors("up", shapes, AxisSlice(1, range(32, 96)))
    assert columns == {"data": AxisSlice(1, range(34, 102))}
    rows = FORM.shard_tensors("up", shapes, AxisSlice(0, range(2, 5)))
    assert rows == {"data": AxisSlice(0, range(2, 5))}
    for indices in (range(16, 64), range(32, 72)):
        message = f"columns {indices.start} to {indices.stop} parts blocks of 32 of q8_0: choose"
        with pytest.raises(ValueError, match=message):
            W.shard(1, indices)


def test_a_stack_has_its_weights():
    stack = FORM.stack([W, W.shard(0, range(6))])
    assert stack.shape == (2, 6, 128)
    np.testing.assert_array_equal(stack[1].dequantize(), W.dequantize())
    np.testing.assert_array_equal(stack.dequantize(slice(1, 3))[0], W.dequantize()[1:3])


def test_scales_that_are_no_numbers_are_refused():
    W.check_values("up")
    data = W.data.copy()
    data[3, 34:36] = np.array([np.inf], np.float16).view(np.uint8)
    with pytest.raises(ValueError, match="up: a scale is NaN or infinity"):
        FORM(data).check_values("up")


def test_bytes_are_read_as_float16_wherever_they_lie():
    numbers = np.array([[1, -2.5], [0, 6e-8]], np.float16)
    byte_NB = np.concatenate([np.zeros((2, 1), np.uint8), numbers.view(np.uint8)], axis=1)[:, 1:]
    np.testing.assert_array_equal(half_bytes(byte_NB), numbers.astype(np.float32))
