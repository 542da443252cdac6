"""Codes and scales as formats of the package: names, shapes, shards, refusals."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.quantization import AxisSlice, find_format, get_format
from mimo_v2_flash.quantization.scaled_codes import (
    integer_scales,
    packed_nibbles,
    unpacked_nibbles,
)
from tests.support.stored_blocks import columns_of, random_blocks

NAMES = ["int8", "int4", "mxfp4"]
every_format = pytest.mark.parametrize("name", NAMES)


@every_format
def test_a_checkpoint_has_its_tensors(name):
    form, w = get_format(name), random_blocks(np.random.default_rng(0), name, 6, 4)
    names = form.tensor_names("up.weight")
    tensors = {names["code"]: w.code, names["scale"]: w.scale}
    assert find_format(tensors, "up.weight") is form
    arrays = form.read(tensors, "up.weight")
    form.check("up.weight", w.shape, arrays)
    same = form.from_checkpoint("up.weight", w.shape, arrays)
    assert same.code is w.code
    np.testing.assert_array_equal(same.dequantize(), w.dequantize())
    columns = columns_of(name)
    message = f"up: codes are .* with scales .*, the config asks for .*{columns // form.per_byte}"
    for refuse in (form.from_checkpoint, form.check):
        with pytest.raises(ValueError, match=message):
            refuse("up", (6, columns), arrays)


@every_format
def test_a_shard_lies_between_groups(name):
    form, w = get_format(name), random_blocks(np.random.default_rng(0), name, 6, 4)
    columns = columns_of(name)
    np.testing.assert_array_equal(w.shard(0, range(2, 5)).dequantize(), w.dequantize()[2:5])
    part = range(columns, 3 * columns)
    np.testing.assert_array_equal(
        w.shard(1, part).dequantize(), w.dequantize()[:, columns : 3 * columns]
    )
    message = f"columns 16 to {columns} parts groups of {columns} of {name}: choose"
    with pytest.raises(ValueError, match=message):
        w.shard(1, range(16, columns))
    shapes = {"code": w.code.shape, "scale": w.scale.shape}
    slices = form.shard_tensors("up", shapes, AxisSlice(1, part))
    assert slices["scale"] == AxisSlice(1, range(1, 3))


def test_narrow_scales_are_widened():
    form, code = get_format("int8"), np.ones((2, 128), np.int8)
    scale = np.array([[0.5], [3]], ml_dtypes.bfloat16)
    w = form.from_checkpoint("up", (2, 128), {"code": code, "scale": scale})
    assert w.scale.dtype == np.float32
    np.testing.assert_array_equal(w.dequantize()[:, 0], [0.5, 3])
    scale = np.array([[np.nan], [3]], np.float32)
    with pytest.raises(ValueError, match="up: its weight_scale holds NaN or infinity"):
        form(code, scale).check_values("up")


def test_scales_are_of_the_largest_and_never_subnormal():
    w_OGP = np.float32([[[3, -14], [0, -0.0], [1e-45, 0]]])
    np.testing.assert_array_equal(integer_scales(w_OGP, 7), np.float32([[2, 1, 2.0**-126]]))


def test_nibbles_are_packed_in_their_order():
    code = np.arange(256, dtype=np.uint8)[None]
    np.testing.assert_array_equal(packed_nibbles(unpacked_nibbles(code)), code)
    np.testing.assert_array_equal(unpacked_nibbles(code[:, :19])[0, -4:], [1, 1, 2, 1])
