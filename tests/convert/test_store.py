"""Tests of Store: final names only for complete files, and a journal of what is on disk."""

import hashlib
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mimo_v2_flash.checkpoint.prepared import PREPARED_INDEX
from mimo_v2_flash.convert.plan import OutputTensor, TensorChunk
from mimo_v2_flash.convert.store import JOURNAL, Store
from tests.support.faulty_disk import FaultyDisk

METADATA = {"format": "mimo-v2-flash", "experts": "[0, 1]"}
TENSORS = {name: np.arange(8, dtype=np.float32) + n for n, name in enumerate("abcd")}
OUTPUTS = [OutputTensor(name, "F32", (8,)) for name in TENSORS]
ONE, TWO = "mimo_weights-00001-of-00002.safetensors", "mimo_weights-00002-of-00002.safetensors"
# The second task crosses from one file to the other.
CHUNKS = {
    "a": [TensorChunk("a", 0, TENSORS["a"])],
    "b c": [TensorChunk("b", 0, TENSORS["b"]), TensorChunk("c", 0, TENSORS["c"])],
    "d begin": [TensorChunk("d", 0, TENSORS["d"][:3])],
    "d end": [TensorChunk("d", 12, TENSORS["d"][3:])],
}

FORMER_JOB = "5b8c807dc46956ad8a8cf67de42ffd244c7ea9df1c50aebeca1de8be31e0547b"  # of two_files

two_files = partial(Store, outputs=OUTPUTS, metadata=METADATA, largest_file=64)


def written(folder: Path, *keys: str) -> Store:
    store = two_files(folder)
    store.begin(CHUNKS)
    for key in keys:
        store.write(key, CHUNKS[key])
    return store


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def finished(folder: Path) -> Store:
    store = written(folder, *CHUNKS)
    store.finish()
    return store


def test_chunks_become_files_that_the_library_reads(tmp_path):
    finished(tmp_path)
    assert names_in(tmp_path) == [ONE, TWO, PREPARED_INDEX]
    tensors = load_file(tmp_path / ONE) | load_file(tmp_path / TWO)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(tensors[name], tensor)


def test_the_index_says_where_tensors_are_and_has_each_files_own_checksum(tmp_path):
    store = finished(tmp_path)
    index = json.loads((tmp_path / PREPARED_INDEX).read_text())
    assert index["weight_map"] == {"a": ONE, "b": ONE, "c": TWO, "d": TWO}
    assert index["metadata"]["experts"] == "[0, 1]"
    assert index["metadata"]["total_size"] == store.nbytes
    assert index["metadata"]["sha256"] == {
        file: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for file in (ONE, TWO)
    }


def test_names_are_durable_before_the_index_says_that_all_are_there(tmp_path):
    store = written(tmp_path, *CHUNKS)
    with FaultyDisk() as disk:
        store.finish()
    steps = [change.split()[0] for change in disk.changes]
    assert steps[:5] == ["replace", "replace", "fsync", "create", "write"]
    assert disk.changes[3].endswith(f"{PREPARED_INDEX}.partial")


def test_until_it_is_finished_nothing_has_its_name(tmp_path):
    store = written(tmp_path, *CHUNKS)
    assert names_in(tmp_path) == [f"{ONE}.partial", f"{TWO}.partial", JOURNAL]
    assert store.is_interrupted
    store.finish()
    assert not store.is_interrupted


@pytest.mark.parametrize("number", range(len(CHUNKS) + 1))
def test_an_interrupted_run_knows_what_is_done(tmp_path, number):
    done = list(CHUNKS)[:number]
    written(tmp_path, *done)
    again = two_files(tmp_path)
    assert again.begin(CHUNKS) == set(done)
    for key in CHUNKS.keys() - set(done):
        again.write(key, CHUNKS[key])
    again.finish()
    finished(tmp_path / "at once")
    for file in (ONE, TWO, PREPARED_INDEX):
        assert (tmp_path / file).read_bytes() == (tmp_path / "at once" / file).read_bytes()


@pytest.mark.parametrize("after", range(4))
def test_what_did_not_reach_the_disk_is_not_in_the_journal(tmp_path, after):
    store, full = written(tmp_path, "a"), OSError(28, "No space left on device")
    with (
        pytest.raises(OSError, match=r"partial: [bc]: .*No space left on device"),
        FaultyDisk(after, full),  # a write and an fsync of each of two files
    ):
        store.write("b c", CHUNKS["b c"])
    assert two_files(tmp_path).begin(CHUNKS) == {"a"}


@pytest.mark.parametrize(
    ("name", "last"), [(JOURNAL, 1), (f"{ONE}.partial", 1), (f"{ONE}.partial", 2)]
)
def test_a_full_disk_is_named_by_file(tmp_path, name, last):
    full = OSError(28, "No space left on device")
    with (
        pytest.raises(OSError, match=rf"No space .*{tmp_path}/{name}"),
        FaultyDisk(last, full, ends=name),
    ):
        written(tmp_path, "a")


def test_a_line_that_was_being_written_does_not_count(tmp_path):
    store = written(tmp_path, "a", "d end")
    journal, whole = tmp_path / JOURNAL, (tmp_path / JOURNAL).read_bytes()
    store.write("d begin", CHUNKS["d begin"])
    line = journal.read_bytes()[len(whole) :]
    for size in range(len(line) - 1):  # the last is the line end
        journal.write_bytes(whole + line[:size])
        assert two_files(tmp_path).begin(CHUNKS) == {"a", "d end"}
        assert journal.read_bytes() == whole
    journal.write_bytes(whole + line)
    assert two_files(tmp_path).begin(CHUNKS) == {"a", "d end", "d begin"}


def test_a_journal_that_was_not_begun_is_none(tmp_path):
    (tmp_path / JOURNAL).write_text("")
    assert written(tmp_path, "a").begin(CHUNKS) == {"a"}


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: os.truncate(path, path.stat().st_size - 1)]
)
def test_without_its_file_or_at_another_size_a_task_is_not_done(tmp_path, change):
    written(tmp_path, "a", "b c", "d end")
    change(tmp_path / f"{ONE}.partial")
    assert two_files(tmp_path).begin(CHUNKS) == {"d end"}
    assert two_files(tmp_path).begin(CHUNKS) == {"d end"}


def test_of_another_plan_only_the_same_tasks_are_done(tmp_path):
    written(tmp_path, "a", "d end")
    assert two_files(tmp_path).begin(["a", "d"]) == {"a"}


def former_journal(folder: Path, job: str) -> None:
    """Write what the last release left of an interrupted run: a digest, and keys of tasks."""
    written(folder, "a", "d end")
    (folder / JOURNAL).write_text(f"{job}\na\nd end\n")


def test_an_interrupted_run_of_the_last_release_begins_anew(tmp_path):
    """Its journal has no checksums; its first line is of the same headers, as the digest below."""
    former_journal(tmp_path, FORMER_JOB)
    (tmp_path / f"{ONE}.partial").write_bytes(b"")
    store = two_files(tmp_path)
    assert store.is_former
    assert store.begin(CHUNKS) == set()
    assert not store.is_former


def test_another_jobs_interrupted_run_of_the_last_release_is_left_alone(tmp_path):
    former_journal(tmp_path, "0" * 64)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert not two_files(tmp_path).is_former
    with pytest.raises(ValueError, match=rf"{tmp_path}: an interrupted run of other weights"):
        two_files(tmp_path).begin(CHUNKS)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("renamed", [[ONE], [ONE, TWO]], ids=["one", "all"])
def test_an_interruption_while_files_get_their_names_is_continued(tmp_path, renamed):
    written(tmp_path, *CHUNKS)
    for file in renamed:
        (tmp_path / f"{file}.partial").rename(tmp_path / file)
    again = two_files(tmp_path)
    assert again.begin(CHUNKS) == CHUNKS.keys()
    again.finish()
    assert names_in(tmp_path) == [ONE, TWO, PREPARED_INDEX]
    again.check_files()


def test_a_file_that_was_lost_while_files_got_their_names_is_written_again(tmp_path):
    written(tmp_path, *CHUNKS)
    (tmp_path / f"{ONE}.partial").rename(tmp_path / ONE)
    (tmp_path / f"{TWO}.partial").unlink()
    again = two_files(tmp_path)
    assert again.begin(CHUNKS) == {"a"}
    for key in CHUNKS.keys() - {"a"}:
        again.write(key, CHUNKS[key])
    again.finish()
    finished(tmp_path / "at once")
    for file in (ONE, TWO, PREPARED_INDEX):
        assert (tmp_path / file).read_bytes() == (tmp_path / "at once" / file).read_bytes()


OTHERS = {
    "metadata": {"metadata": METADATA | {"revision": "another commit"}},
    "tensors": {"outputs": OUTPUTS[:3]},
    "files": {"largest_file": 96},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_jobs_interrupted_run_is_not_continued(tmp_path, other):
    written(tmp_path, "a")
    with pytest.raises(ValueError, match=rf"{tmp_path}: an interrupted run of other weights"):
        two_files(tmp_path, **other).begin(CHUNKS)
    assert two_files(tmp_path).begin(CHUNKS) == {"a"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", ONE, PREPARED_INDEX])
def test_a_folder_of_another_checkpoint_is_left_alone(tmp_path, name):
    (tmp_path / name).write_text("another's")
    with pytest.raises(ValueError, match=rf"{tmp_path} holds {name} of another checkpoint"):
        two_files(tmp_path).begin(CHUNKS)
    assert names_in(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "another's"


def with_free(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 0, free))


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    store = two_files(tmp_path)
    with_free(monkeypatch, store.nbytes - 1)
    with pytest.raises(OSError, match=rf"{tmp_path}: {store.nbytes:,} more bytes are needed"):
        store.begin(CHUNKS)
    assert names_in(tmp_path) == []
    with_free(monkeypatch, store.nbytes)
    assert store.begin(CHUNKS) == set()


def test_what_is_on_disk_already_needs_no_room(tmp_path, monkeypatch):
    written(tmp_path, *CHUNKS)
    (tmp_path / f"{ONE}.partial").rename(tmp_path / ONE)
    with_free(monkeypatch, 0)
    assert two_files(tmp_path).begin(CHUNKS) == CHUNKS.keys()


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_a_finished_checkpoint_that_lost_something_is_refused_by_name(tmp_path, change):
    store = finished(tmp_path)
    change(tmp_path / TWO)
    with pytest.raises(ValueError, match=rf"{TWO}: missing or not of [\d,]+ bytes, though"):
        store.check_files()
