"""Tests of file states: whatever changes size, time, header or samples of a file is noticed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mimo_v2_flash.checkpoint.source_files import (
    SAMPLE,
    SAMPLES,
    FileState,
    content_digest,
    file_changes,
    file_states,
    parse_states,
)

SMALL = SAMPLE * SAMPLES  # a file of which every byte is read


def weights(folder: Path, size: int = 300_000) -> Path:
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    save_file({"x": data, "y": data}, folder / "w.safetensors")
    return folder / "w.safetensors"


def rewrite(path: Path, position: int) -> None:
    """Change one byte; size and modification time stay."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def changes(path: Path, before: dict[str, FileState]) -> list[str]:
    return file_changes(before, file_states([path]))


def test_states_are_by_name_and_come_back_from_json(tmp_path):
    paths = [weights(tmp_path), tmp_path / "vocab.json"]
    paths[1].write_bytes(b"{}")
    states = file_states([*paths, *paths])
    assert states.keys() == {"w.safetensors", "vocab.json"}
    assert states["vocab.json"][:2] == (2, paths[1].stat().st_mtime_ns)
    assert parse_states(json.loads(json.dumps(states))) == states
    assert file_changes(states, file_states(paths)) == []


@given(st.binary(max_size=300), st.sampled_from(["a.safetensors", "a.json"]))
def test_any_bytes_are_a_file(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("files") / name
    path.write_bytes(data)
    assert file_states([path])[name].size == len(data)


@pytest.mark.parametrize("name", ["w.safetensors", "tokenizer.json"])
@given(position=st.integers(0, SMALL - 1))
def test_any_byte_of_a_small_file_is_noticed(tmp_path_factory, name, position):
    path = tmp_path_factory.mktemp("small") / name
    path.write_bytes(b"\xff" * SMALL)
    before = file_states([path])
    rewrite(path, position)
    assert changes(path, before) == [f"{name} has other content"]


@pytest.mark.parametrize("place", ["header", "first", "last", "middle sample"])
def test_a_large_file_is_noticed_by_header_and_samples(tmp_path, place):
    path = weights(tmp_path, 5_000_000)
    size, before = path.stat().st_size, file_states([path])
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    sample = (size // SAMPLES) * 9 + 5
    positions = {"header": start - 3, "first": start, "last": size - 1, "middle sample": sample}
    rewrite(path, positions[place])
    assert changes(path, before) == ["w.safetensors has other content"]


def test_a_header_is_read_whole(tmp_path):
    tensors = {f"{'long' * 50}.{n}": np.zeros(9, np.float32) for n in range(3000)}
    save_file(tensors, path := tmp_path / "w.safetensors")
    assert path.stat().st_size > 2 * SMALL
    before = file_states([path])
    rewrite(path, 3 * (path.stat().st_size // SAMPLES) + SAMPLE + 5)  # between two samples
    assert changes(path, before) == ["w.safetensors has other content"]


def test_size_and_time_are_noticed_without_the_content(tmp_path):
    path = weights(tmp_path)
    before, stat = file_states([path]), path.stat()
    os.utime(path, ns=(0, stat.st_mtime_ns + 1))
    assert changes(path, before) == ["w.safetensors has another modification time"]
    assert content_digest(file_states([path])) == content_digest(before)
    os.truncate(path, stat.st_size - 1)
    assert changes(path, before) == [
        f"w.safetensors has {stat.st_size - 1:,} bytes, not {stat.st_size:,}"
    ]


def test_new_and_missing_files_are_noticed():
    a, b = FileState(1, 2, "x"), FileState(1, 2, "y")
    assert file_changes({"a": a, "b": b}, {"b": b, "c": a}) == ["a is missing", "c is new"]


def test_a_digest_is_of_names_sizes_and_content():
    state = FileState(1, 2, "x")
    digests = {
        content_digest(states)
        for states in (
            {"a": state},
            {"b": state},
            {"a": state._replace(size=3)},
            {"a": state._replace(digest="y")},
            {"a": state, "b": state},
        )
    }
    assert len(digests) == 5
    assert content_digest({}) == ""
    assert content_digest({"a": state._replace(mtime_ns=9)}) in digests


@pytest.mark.parametrize("damaged", [3, [1], {"a": [1]}, {"a": ["1", 2, "x"]}, {"a": None}])
def test_states_that_cannot_be_are_refused(damaged):
    with pytest.raises((TypeError, ValueError)):
        parse_states(damaged)
