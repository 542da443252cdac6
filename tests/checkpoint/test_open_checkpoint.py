"""Tests of Checkpoint: one mapping of any number of files; pickles are never opened."""

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mimo_v2_flash.checkpoint import source as checkpoint
from mimo_v2_flash.checkpoint.source import INDEX_SUFFIX, open_checkpoint

ONE, TWO, THREE = (np.full((2, 3), number, np.float32) for number in (1, 2, 3))
SHARDS = {"a.safetensors": {"one": ONE, "two": TWO}, "b.safetensors": {"three": THREE}}
TENSORS = {"one": ONE, "two": TWO, "three": THREE}
WEIGHT_MAP = {name: file for file, tensors in SHARDS.items() for name in tensors}


def saved(folder: Path, shards=SHARDS, weight_map=None) -> Path:
    folder.mkdir(exist_ok=True)
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    if weight_map is not None:
        indexed(folder, {"metadata": {}, "weight_map": weight_map})
    return folder


def indexed(folder: Path, content) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / INDEX_SUFFIX).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Return the events so far: headers of files read, and files mapped."""
    events: list[str] = []

    def recorded(event: str, function):
        def call(path: Path, *arguments, **options):
            events.append(f"{event} {path.name}")
            return function(path, *arguments, **options)

        return call

    monkeypatch.setattr(checkpoint, "file_header", recorded("header", checkpoint.file_header))
    monkeypatch.setattr(np, "memmap", recorded("map", np.memmap))
    return events


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("weight_map", [WEIGHT_MAP, None], ids=["indexed", "no index"])
def test_shards_are_one_mapping(tmp_path, weight_map):
    tensors = open_checkpoint(saved(tmp_path, weight_map=weight_map))
    assert (sorted(tensors), len(tensors)) == (["one", "three", "two"], 3)
    for name, expected in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], expected)
        assert tensors.file_of(name) == tmp_path / WEIGHT_MAP[name]
    assert "four" not in tensors
    with pytest.raises(KeyError, match="four"):
        tensors["four"]


def test_a_single_file_is_a_checkpoint(tmp_path):
    file = saved(tmp_path) / "a.safetensors"
    tensors = open_checkpoint(file)
    assert tensors.keys() == {"one", "two"}
    assert tensors.file_of("two") == file
    np.testing.assert_array_equal(tensors["two"], TWO)


def test_an_index_decides_where_a_tensor_is(tmp_path):
    shards = SHARDS | {"old.safetensors": {"one": -ONE, "four": ONE}}
    tensors = open_checkpoint(saved(tmp_path, shards, WEIGHT_MAP))
    assert tensors.keys() == TENSORS.keys()
    np.testing.assert_array_equal(tensors["one"], ONE)


def test_indexed_files_are_opened_when_needed_and_once(tmp_path, opened):
    tensors = open_checkpoint(saved(tmp_path, weight_map=WEIGHT_MAP))
    assert tensors.file_of("three").name == "b.safetensors"
    assert (list(tensors), "one" in tensors, "four" in tensors) == (list(WEIGHT_MAP), True, False)
    assert opened == []
    assert tensors.info("two").shape == (2, 3)
    assert opened == ["header a.safetensors"]
    _ = tensors["one"], tensors["two"], tensors["one"]
    assert opened == ["header a.safetensors", "map a.safetensors"]
    _ = tensors["three"]
    assert opened[2:] == ["header b.safetensors", "map b.safetensors"]


def test_a_damaged_shard_does_not_keep_the_others_from_being_read(tmp_path):
    saved(tmp_path, weight_map=WEIGHT_MAP)
    (tmp_path / "b.safetensors").write_bytes(b"<html>404</html>")
    tensors = open_checkpoint(tmp_path)
    np.testing.assert_array_equal(tensors["one"], ONE)
    with pytest.raises(ValueError, match=r"b\.safetensors: header"):
        tensors["three"]


def test_a_tensor_in_two_files_is_refused(tmp_path):
    saved(tmp_path, SHARDS | {"c.safetensors": {"two": TWO}})
    with pytest.raises(ValueError, match=r"two is in a\.safetensors and c\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    saved(tmp_path, weight_map=WEIGHT_MAP)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors: missing"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_not_in_its_shard_is_named_with_it(tmp_path):
    tensors = open_checkpoint(saved(tmp_path, weight_map=WEIGHT_MAP | {"four": "b.safetensors"}))
    np.testing.assert_array_equal(tensors["one"], ONE)
    with pytest.raises(ValueError, match=r"b\.safetensors: four is missing"):
        tensors["four"]


@pytest.mark.parametrize(
    "file_name",
    [
        *("../outside.safetensors", "{outside}"),
        *("folder/inside.safetensors", "folder/../../outside.safetensors"),
        *("pytorch_model.bin", "a.safetensors.bin", "a", "..", ""),
    ],
)
def test_an_index_may_name_safetensors_files_of_its_folder_only(tmp_path, file_name):
    folder = saved(tmp_path / "checkpoint")
    for other in (tmp_path / "outside.safetensors", folder / "folder" / "inside.safetensors"):
        saved(other.parent, {other.name: {"four": ONE}})
    for file in ("pytorch_model.bin", "a.safetensors.bin", "a"):
        (folder / file).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    file_name = file_name.format(outside=tmp_path / "outside.safetensors")
    indexed(folder, {"weight_map": WEIGHT_MAP | {"four": file_name}})
    with pytest.raises(ValueError, match=rf"{INDEX_SUFFIX}: four is mapped to '") as refusal:
        open_checkpoint(folder)
    assert repr(file_name) in str(refusal.value)
    assert not (tmp_path / "sprung").exists()


def test_a_link_of_the_folder_may_lead_elsewhere_as_in_the_hubs_cache(tmp_path):
    saved(tmp_path / "blobs", {"0123.safetensors": {"one": ONE}})
    folder = saved(tmp_path / "snapshot", {}, None)
    (folder / "a.safetensors").symlink_to(tmp_path / "blobs" / "0123.safetensors")
    for content in (None, {"weight_map": {"one": "a.safetensors"}}):
        if content:
            indexed(folder, content)
        np.testing.assert_array_equal(open_checkpoint(folder)["one"], ONE)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        [],
        3,
        {},
        {"weight_map": None},
        {"weight_map": ["one"]},
    ],
    ids=lambda content: json.dumps(content)[:30],
)
def test_a_damaged_index_is_refused_by_name(tmp_path, content):
    indexed(saved(tmp_path), content)
    with pytest.raises(ValueError, match=rf"{INDEX_SUFFIX}: no weight_map"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file_name", [1, None, ["a.safetensors"]])
def test_an_index_names_files_by_text(tmp_path, file_name):
    indexed(saved(tmp_path), {"weight_map": {"one": file_name}})
    message = rf"{INDEX_SUFFIX}: one is mapped to {re.escape(repr(file_name))}, expected"
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("suffix", checkpoint.PICKLES)
def test_pickles_are_refused_and_never_loaded(tmp_path, suffix):
    file = tmp_path / f"model{suffix}"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match="pickles can run code and are not loaded"):
        open_checkpoint(file)
    with pytest.raises(FileNotFoundError, match=rf"no \.safetensors file; model\{suffix}"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "sprung").exists()
    saved(tmp_path)
    assert open_checkpoint(tmp_path).keys() == TENSORS.keys()


def test_nothing_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors file$"):
        open_checkpoint(tmp_path)
