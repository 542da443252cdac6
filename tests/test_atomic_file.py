"""Tests of atomic_write: the former content or all of the new, and no temporary file is left."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash.atomic_file import atomic_write, partial_path, sync_folder
from mimo_v2_flash.cli.result import write_json
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.journal import Journal, JournalHead
from mimo_v2_flash.convert.store import Store
from mimo_v2_flash.execution import compile_cache
from mimo_v2_flash.tracing.trace_file import write_trace
from tests.support.faulty_disk import FaultyDisk, Killed


def _trace(path: Path, number: int) -> None:
    write_trace(path, {"tokens": np.full(4, number)}, MiMoConfig())


def _json(path: Path, number: int) -> None:
    write_json({"number": number}, path)


def _record(path: Path, number: int) -> None:
    """Write the record of a compiled program, as the compile cache does."""
    compile_cache._write(path, compile_cache._json_bytes({"number": number}))


def _small_file(path: Path, number: int) -> None:
    Store(path.parent, [], {}).write_file(path.name, str(number).encode())


def _journal(path: Path, number: int) -> None:
    Journal(path).start(JournalHead(f"{number}", {}), {})


WRITERS = {writer.__name__: writer for writer in (_trace, _json, _record, _small_file, _journal)}
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


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_the_project_writes_is_at_any_kill_the_former_file_or_the_new(tmp_path, write):
    contents = []
    for number in (1, 2):
        write(tmp_path / "whole", number)
        contents.append(sorted((tmp_path / "whole").read_bytes()))  # metadata in any order
    assert contents[0] != contents[1]
    with FaultyDisk() as disk:
        write(tmp_path / "whole", 2)
    for last in range(len(disk.changes)):
        write(file := tmp_path / str(last), 1)
        with FaultyDisk(last), suppress(Killed):
            write(file, 2)
        assert sorted(file.read_bytes()) in contents, disk.changes[last]


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


def test_a_folder_that_does_not_exist_is_an_error_of_the_file(tmp_path):
    file = tmp_path / "nowhere" / "x"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(file) as partial:
        partial.write_text("x")
    assert caught.value.filename == str(file.resolve())


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


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (file := tmp_path / "real" / "x").write_bytes(b"former")
    (link := tmp_path / "link").symlink_to(file)
    replace(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "real", "x"]


def test_a_pipe_is_written_and_stays_one(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace(pipe, b"new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    assert pipe.is_fifo()
