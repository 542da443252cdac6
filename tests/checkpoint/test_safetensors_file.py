"""Tests of headers and maps of sound files: what the library wrote, to the bit, without a copy."""

import json
import mmap

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, TensorInfo, read_header
from mimo_v2_flash.checkpoint.source import file_header, open_checkpoint

TORCH = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F16": torch.float16,
}
SHAPES = [(), (1,), (0,), (5, 0), (3,), (2, 3), (4, 1, 3)]
SOUND = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).bfloat16()}, {"made": "by"})


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_reads_every_bit_that_the_library_wrote(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(shape): torch.randn(shape, generator=generator).to(TORCH[dtype]) for shape in SHAPES
    }
    save_file(tensors, tmp_path / "x.safetensors")
    arrays = open_checkpoint(tmp_path / "x.safetensors")
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (arrays[name].dtype, arrays[name].shape) == (DTYPES[dtype], tuple(tensor.shape))
        assert arrays[name].tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_fp8_code_comes_back_as_itself(tmp_path):
    code = torch.arange(256, dtype=torch.uint8)
    save_file({"w": code.view(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    array = open_checkpoint(tmp_path / "x.safetensors")["w"]
    np.testing.assert_array_equal(array, code.numpy())
    value = array.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(value, code.view(torch.float8_e4m3fn).float().numpy())


def test_tensors_are_read_only_views_of_one_map(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SOUND)
    tensors = open_checkpoint(path)
    maps = set()
    for array in tensors.values():
        assert not array.flags.writeable
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        maps.add(id(base))
    assert len(maps) == 1


def test_metadata_is_no_tensor_and_byte_ranges_are_the_files(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SOUND)
    assert open_checkpoint(path).keys() == {"a", "b"}
    metadata, tensors, start = *file_header(path)[1:], len(SOUND) - 24 - 6
    assert metadata == {"made": "by"}
    assert tensors == {
        "a": TensorInfo(str(path), "F32", (2, 3), start, start + 24),
        "b": TensorInfo(str(path), "BF16", (3,), start + 24, start + 30),
    }


def test_dtypes_that_nobody_asks_for_may_be_there():
    entry = {"dtype": "I4", "shape": [48], "data_offsets": [0, 24]}
    text = json.dumps({"w": entry}).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(24)
    header = read_header("x", "x", lambda begin, end: (content[begin:end], len(content)))
    assert header.info("w").dtype == "I4"
    with pytest.raises(ValueError, match=r"^x: w: dtype is I4, expected one of F32, BF16, F8_E4M3"):
        header.info("w").check_dtype("w")


def test_a_file_of_no_tensors_is_sound(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert open_checkpoint(tmp_path / "x.safetensors") == {}
