"""Tests of Store when the process is killed at any change of the disk, or bytes change meanwhile.

Whatever happened, what the next run makes is equal to the byte to what one run makes; and a folder
that has its index is complete at every moment.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.convert.plan import OutputTensor, TensorChunk
from mimo_v2_flash.convert.store import JOURNAL, LOCK, Store
from tests.support.faulty_disk import FaultyDisk, Killed

METADATA = {"format": "mimo-v2-flash", "experts": "[0, 1]"}
SHARDS = 2
OUTPUTS = [OutputTensor(n, "F32", (8,), shard) for n in "abc" for shard in range(SHARDS)]


def tensor(name: str, shard: int) -> np.ndarray:
    return np.arange(8, dtype=np.float32) + ord(name) + 100 * shard


def chunks(name: str, rows: slice) -> list[TensorChunk]:
    """Return rows of one tensor of both shards: a task that writes to two files."""
    return [TensorChunk(name, 4 * rows.start, tensor(name, s)[rows], s) for s in range(SHARDS)]


TASKS = {f"{n} {rows.start}": chunks(n, rows) for n in "abc" for rows in (slice(0, 3), slice(3, 8))}


def store_in(folder: Path) -> Store:
    return Store(folder, OUTPUTS, METADATA, largest_file=64, shards=SHARDS)


def complete(folder: Path) -> set[str]:
    """Run what is left of the job, and return the tasks that were run."""
    store = store_in(folder)
    with store.lock():
        if store.index.exists():
            return set()
        remaining = TASKS.keys() - store.begin(TASKS)
        for key in sorted(remaining):
            store.write(key, TASKS[key])
        for shard_folder in ("", *store.folders):
            store.write_file(str(Path(shard_folder) / "config.json"), b"{}\n")
        store.finish()
        return set(remaining)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill(folder: Path, last: int) -> FaultyDisk:
    """Run the job until it has changed the disk `last` times; return the disk."""
    with FaultyDisk(last) as disk, suppress(Killed):
        complete(folder)
    return disk


@pytest.fixture(autouse=True, scope="module")
def _fast_disk():
    """Sync nothing: a killed process loses nothing that it has written."""
    with patch.object(os, "fsync", id):
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """Return the files of a run that nothing interrupts."""
    complete(folder := tmp_path_factory.mktemp("at once"))
    return contents(folder)


@pytest.fixture(scope="module")
def changes(tmp_path_factory) -> list[str]:
    """Return every change that a run makes to the disk."""
    with FaultyDisk() as disk:
        complete(tmp_path_factory.mktemp("counted"))
    return disk.changes


def assert_resumes(folder: Path, expected: dict[str, bytes]) -> None:
    complete(folder)
    files = contents(folder)
    for left in (JOURNAL, LOCK):  # of a process that had written its last file
        files.pop(left, None)
    assert files == expected


def test_killed_at_any_change_of_the_disk_the_next_run_completes_it(tmp_path, expected, changes):
    assert len(changes) > 80
    assert {name.split()[0] for name in changes} >= {"write", "fsync", "replace", "truncate"}
    for last in range(len(changes)):
        kill(folder := tmp_path / str(last), last)
        if store_in(folder).index.exists():
            assert expected.items() <= contents(folder).items(), changes[last]
        assert_resumes(folder, expected)


@given(st.lists(st.integers(0, 130), max_size=6))
def test_killed_again_and_again_it_is_completed(tmp_path_factory, expected, lasts):
    folder = tmp_path_factory.mktemp("killed")
    for last in lasts:
        kill(folder, last)
    assert_resumes(folder, expected)


def test_what_is_on_disk_is_not_written_again(tmp_path, changes):
    before_finish = next(n for n, change in enumerate(changes) if "config.json" in change)
    kill(tmp_path, before_finish)
    assert complete(tmp_path) == set()


@pytest.mark.parametrize("last", [25, 60, 90, 100])
def test_a_process_that_ends_at_once_leaves_what_the_next_one_needs(tmp_path, expected, last):
    pid = os.fork()
    if not pid:
        with FaultyDisk(last), suppress(Killed):
            complete(tmp_path)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert_resumes(tmp_path, expected)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position // 8 % len(data)] ^= 1 << position % 8
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, int], object]] = {
    "bit": flip,
    "zeros": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "shorter": lambda path, n: os.truncate(path, n % path.stat().st_size),
    "longer": lambda path, n: os.truncate(path, path.stat().st_size + 1 + n % 99),
    "lost": lambda path, _: path.unlink(),
}


@given(st.integers(20, 110), st.sampled_from(sorted(DAMAGES)), st.integers(0, 1 << 20), st.data())
def test_files_that_changed_after_a_kill_are_written_again(
    tmp_path_factory, expected, last, damage, position, data
):
    kill(folder := tmp_path_factory.mktemp("damaged"), last)
    if store_in(folder).index.exists():
        return
    weights = sorted(path for path in folder.rglob("*.safetensors*") if path.stat().st_size)
    if weights:
        DAMAGES[damage](data.draw(st.sampled_from(weights)), position)
    assert_resumes(folder, expected)


@given(st.integers(0, 1 << 20))
def test_a_bit_of_the_journal_that_changed_is_never_believed(tmp_path_factory, expected, position):
    kill(folder := tmp_path_factory.mktemp("journal"), 70)
    journal = folder / JOURNAL
    head = journal.read_bytes().index(b"\n")
    flip(journal, position)
    if position // 8 % journal.stat().st_size <= head:
        with pytest.raises(ValueError, match=rf"{journal}: damaged, or of another release"):
            complete(folder)
    else:
        assert_resumes(folder, expected)


@pytest.mark.parametrize("damage", sorted(DAMAGES.keys() - {"lost"}))
def test_a_file_that_changed_before_it_gets_its_name_gets_none(tmp_path, expected, damage):
    store = store_in(tmp_path)
    store.begin(TASKS)
    for key, of_task in TASKS.items():
        store.write(key, of_task)
    file = next(tmp_path.rglob("*.safetensors.partial"))
    DAMAGES[damage](file, 8 * (file.stat().st_size - 3))
    with pytest.raises(ValueError, match=f"{file}: its bytes are not those that were written; --r"):
        store.finish()
    assert not list(tmp_path.rglob("*.safetensors"))
    assert_resumes(tmp_path, expected)


def test_a_task_that_was_never_run_is_noticed(tmp_path):
    store = store_in(tmp_path)
    store.begin(TASKS)
    for key in TASKS.keys() - {"b 3"}:
        store.write(key, TASKS[key])
    with pytest.raises(ValueError, match=r"its bytes are not those that were written"):
        store.finish()


def test_two_runs_of_one_folder_are_one(tmp_path):
    with store_in(tmp_path).lock():
        with pytest.raises(OSError, match=rf"{tmp_path}: another process is writing to this folde"):
            complete(tmp_path)
        assert contents(tmp_path) == {LOCK: b""}
    assert contents(tmp_path) == {}
    complete(tmp_path)


def test_a_killed_process_holds_no_lock(tmp_path):
    if not (pid := os.fork()):
        with store_in(tmp_path).lock():
            os._exit(0)
    os.waitpid(pid, 0)
    assert (tmp_path / LOCK).exists()
    complete(tmp_path)
    assert not (tmp_path / LOCK).exists()
