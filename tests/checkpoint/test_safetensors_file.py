"""Tests of map_tensors: what the library wrote, to the bit and without a copy."""

import mmap

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, map_tensors, read_header

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
SHAPES = [(), (1,), (0,), (5, 0), (3,), (2, 3), (4, 1, 3)]
SOUND = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).bfloat16()}, {"made": "by"})


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_reads_every_bit_that_the_library_wrote(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(shape): torch.randn(shape, generator=generator).to(TORCH[dtype]) for shape in SHAPES
    }
    save_file(tensors, tmp_path / "x.safetensors")
    arrays = map_tensors(tmp_path / "x.safetensors")
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (arrays[name].dtype, arrays[name].shape) == (DTYPES[dtype], tuple(tensor.shape))
        assert arrays[name].tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_fp8_code_comes_back_as_itself(tmp_path):
    code = torch.arange(256, dtype=torch.uint8)
    save_file({"w": code.view(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    array = map_tensors(tmp_path / "x.safetensors")["w"]
    np.testing.assert_array_equal(array, code.numpy())
    value = array.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(value, code.view(torch.float8_e4m3fn).float().numpy())


def test_tensors_are_read_only_views_of_one_map(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SOUND)
    tensors = map_tensors(path)
    maps = set()
    for array in tensors.values():
        assert not array.flags.writeable
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, mmap.mmap)
        maps.add(id(base))
    assert len(maps) == 1


def test_metadata_is_no_tensor(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SOUND)
    assert map_tensors(path).keys() == {"a", "b"}
    header, start = read_header(path)
    assert header["__metadata__"] == {"made": "by"}
    assert start == len(SOUND) - 24 - 6


def test_a_file_of_no_tensors_is_sound(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert map_tensors(tmp_path / "x.safetensors") == {}
