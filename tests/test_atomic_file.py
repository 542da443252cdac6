"""Tests of atomic_write: the former content or all of the new, and no temporary file is left."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from mimo_v2_flash.atomic_file import atomic_write, partial_path, sync_folder
from tests.support.faulty_disk import FaultyDisk, Killed

FULL = OSError(errno.ENOSPC, "No space left on device")


def replace(path: Path, data: bytes, partial: Path | None = None) -> None:
    with atomic_write(path, partial) as written:
        written.write_bytes(data)


@pytest.mark.parametrize("partial", [None, "x.json.partial"])
def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path, partial):
    file = tmp_path / "x.json"
    for data in (b"first", b"second and longer", b""):
        replace(file, data, partial and tmp_path / partial)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [data]


def test_killed_at_any_change_the_file_is_the_former_or_the_new(tmp_path):
    file, seen = tmp_path / "x", set()
    with FaultyDisk() as disk:
        replace(tmp_path / "counted", b"new")
    for last in range(len(disk.changes)):
        file.write_bytes(b"former")
        with FaultyDisk(last), suppress(Killed):
            replace(file, b"new")
        seen.add(file.read_bytes())
    assert seen == {b"former", b"new"}


def test_its_bytes_are_synced_before_it_gets_its_name_and_the_folder_after(tmp_path):
    with FaultyDisk() as disk:
        replace(tmp_path / "x", b"new")
    steps = [change.split()[0] for change in disk.changes]
    assert steps == ["create", "write", "fsync", "replace", "unlink", "fsync"]


@pytest.mark.parametrize("last", range(4))
def test_a_block_that_fails_leaves_the_former_file_alone(tmp_path, last):
    file = tmp_path / "x"
    file.write_bytes(b"former")
    with pytest.raises(OSError, match=r"No space .*/x'$"), FaultyDisk(last, FULL):
        replace(file, b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"former"}


@pytest.mark.parametrize(
    "error", [OSError("no number"), ValueError("x"), FileNotFoundError(2, "no", "its file")]
)
def test_other_errors_are_as_they_were(tmp_path, error):
    with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "x"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_name_is_of_one_process_or_of_one_writer(tmp_path):
    with atomic_write(tmp_path / "x") as partial:
        assert partial.name == f".x.{os.getpid()}.partial"
        partial.touch()
    assert partial_path(tmp_path / "x") == tmp_path / "x.partial"


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_need_not_sync_folders(tmp_path, number, raises):
    with FaultyDisk(0, OSError(number, "fsync")):
        if raises:
            with pytest.raises(OSError, match="fsync"):
                sync_folder(tmp_path)
        else:
            sync_folder(tmp_path)


def test_windows_does_not_sync_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("mimo_v2_flash.atomic_file.os.name", "nt")
    with FaultyDisk() as disk:
        sync_folder(tmp_path)
    monkeypatch.undo()
    assert disk.changes == []
