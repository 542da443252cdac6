"""Tests of FolderSource: byte ranges, never memory-mapped."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mimo_v2_flash.checkpoint.source import FolderSource, open_checkpoint

ONE, TWO = np.arange(6, dtype=np.float32).reshape(2, 3), np.full(5, 2, np.float32)
SHARDS = {"a.safetensors": {"one": ONE, "two": TWO}, "b.safetensors": {"three": -ONE}}
WEIGHT_MAP = {name: file for file, held in SHARDS.items() for name in held}


def saved(folder: Path, shards=SHARDS, weight_map=WEIGHT_MAP) -> Path:
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    if weight_map:
        index = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    return folder


@pytest.mark.parametrize("weight_map", [WEIGHT_MAP, None], ids=["indexed", "no index"])
def test_the_byte_range_of_a_tensor_is_the_tensor(tmp_path, weight_map):
    source = FolderSource(saved(tmp_path, weight_map=weight_map))
    assert (source.name, source.revision) == (str(tmp_path), "")
    assert sorted(source.names()) == ["one", "three", "two"]
    infos = source.tensor_infos(["three", "one"])
    assert list(infos) == ["three", "one"]
    for name, info in infos.items():
        expected = open_checkpoint(tmp_path)[name]
        assert info[:3] == (str(tmp_path / WEIGHT_MAP[name]), "F32", (2, 3))
        assert source.read(info.file, info.begin, info.end) == expected.tobytes()
        assert source.read(info.file, info.begin + 4, info.begin + 8) == expected.tobytes()[4:8]


def test_a_single_file_is_a_source(tmp_path):
    file = saved(tmp_path) / "a.safetensors"
    source = FolderSource(file)
    assert sorted(source.names()) == ["one", "two"]
    assert source.tensor_infos(["two"])["two"].file == str(file)


def test_an_indexed_folder_is_never_mapped_and_only_needed_headers_are_read(tmp_path, monkeypatch):
    (saved(tmp_path) / "b.safetensors").write_bytes(b"<html>404</html>")
    monkeypatch.setattr(np, "memmap", None)
    source = FolderSource(tmp_path)
    info = source.tensor_infos(["two"])["two"]
    assert source.read(info.file, info.begin, info.end) == TWO.tobytes()
    with pytest.raises(ValueError, match=r"b\.safetensors: header"):
        source.tensor_infos(["three"])


def test_many_threads_read_one_file(tmp_path):
    numbers = np.arange(100_000, dtype=np.float32)
    source = FolderSource(saved(tmp_path, {"a.safetensors": {"one": numbers}}, None))
    info = source.tensor_infos(["one"])["one"]
    begins = range(info.begin, info.end, 4000)
    with ThreadPoolExecutor(8) as pool:
        blocks = pool.map(lambda begin: source.read(info.file, begin, begin + 4000), begins)
        assert b"".join(blocks) == numbers.tobytes()


@pytest.mark.parametrize("removed", [1, 30])
def test_a_shard_that_is_truncated_is_refused_by_file_and_tensor(tmp_path, removed):
    source = FolderSource(saved(tmp_path))
    file = tmp_path / "a.safetensors"
    file.write_bytes(file.read_bytes()[:-removed])
    with pytest.raises(ValueError, match=r"a\.safetensors: \w+: bytes \d+ to \d+ of \d+: trunc"):
        source.tensor_infos(["one"])


def test_a_shard_that_is_truncated_later_is_refused_by_file(tmp_path):
    source = FolderSource(saved(tmp_path))
    info = source.tensor_infos(["two"])["two"]
    file = tmp_path / "a.safetensors"
    file.write_bytes(file.read_bytes()[: info.begin + 3])
    with pytest.raises(ValueError, match=rf"a\.safetensors: ends at byte {info.begin + 3}, expect"):
        source.read(info.file, info.begin, info.end)


def test_a_tensor_that_is_not_in_its_shard_is_named_with_it(tmp_path):
    source = FolderSource(saved(tmp_path, weight_map=WEIGHT_MAP | {"four": "b.safetensors"}))
    with pytest.raises(ValueError, match=r"b\.safetensors: four is missing, though the index"):
        source.tensor_infos(["one", "four"])


def test_the_index_decides_where_two_shards_hold_a_tensor(tmp_path):
    shards = SHARDS | {"b.safetensors": {"three": -ONE, "one": -TWO}}
    source = FolderSource(saved(tmp_path, shards))
    info = source.tensor_infos(["three", "one"])["one"]
    assert (Path(info.file).name, info.shape) == ("a.safetensors", (2, 3))
