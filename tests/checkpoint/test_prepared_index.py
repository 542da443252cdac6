"""Tests of read_prepared_index: what a store wrote is read; damage is named."""

import json
from pathlib import Path

import pytest

from mimo_v2_flash.checkpoint.prepared import PreparedMetadata, read_prepared_index
from mimo_v2_flash.checkpoint.source_files import FileState
from mimo_v2_flash.convert.plan import OutputTensor
from mimo_v2_flash.convert.store import Store
from tests.support.quantised import SMALL

PREPARED = PreparedMetadata("a", "", "fp8", "cpu", (1, 3), SMALL.to_dict(), source_digest="ab")
STATES = {"x.safetensors": FileState(1, 2, "digest")}
FILE = "mimo_weights.safetensors"


@pytest.fixture
def index(tmp_path) -> Path:
    """Return the index of a finished folder without a tensor of more than no rows."""
    store = Store(
        tmp_path,
        [OutputTensor("w", "F32", (0, 1))],
        PREPARED.to_metadata(),
        source_files=STATES,
    )
    store.begin([])
    store.write_file("config.json", b"{}")
    store.finish()
    return store.index


def change(index: Path, **values: object) -> None:
    content = json.loads(index.read_text())
    content["metadata"] = {
        name: value for name, value in (content["metadata"] | values).items() if value is not None
    }
    index.write_text(json.dumps(content))


def test_what_was_written_is_read(index):
    prepared, checksums, source_files, shards = read_prepared_index(index)
    assert (prepared, source_files, shards) == (PREPARED, STATES, [])
    assert checksums.keys() == {FILE, "config.json"}
    assert all(len(checksum) == 64 for checksum in checksums.values())


def test_what_older_indexes_lack_is_none(index):
    change(index, sha256=None, source_files=None, source_digest=None)
    prepared, checksums, source_files, _ = read_prepared_index(index)
    assert (prepared.source_digest, checksums, source_files) == ("", {FILE: None}, None)


@pytest.mark.parametrize(
    "values",
    [
        {"sha256": {"../x": "ab"}},
        {"sha256": {"/etc/passwd": "ab"}},
        {"sha256": 3},
        {"format": "another project's"},
        {"source_files": 3},
        {"source_files": {"x": [1]}},
        {"experts": "{"},
    ],
)
def test_damage_is_named(index, values):
    change(index, **values)
    with pytest.raises(ValueError, match=f"^{index}: damaged, or of another release: "):
        read_prepared_index(index)


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"metadata": []}', "[" * 100_000])
def test_what_is_no_index_is_named(index, text):
    index.write_text(text)
    with pytest.raises(ValueError, match=f"^{index}: damaged, or of another release: "):
        read_prepared_index(index)
