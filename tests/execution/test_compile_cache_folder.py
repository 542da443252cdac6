"""The folder of a compile cache: without a home, on a read-only disk, on a full one."""

import errno
from pathlib import Path

import pytest

from mimo_v2_flash.execution import compile_cache
from mimo_v2_flash.execution.compile_cache import CompileCache


def no_home(*_):
    raise RuntimeError("Could not determine home directory.")


def test_the_users_folder_is_that_of_his_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CompileCache(Path("~/programs"), ()).folder == tmp_path / "programs"
    assert not any(tmp_path.iterdir())


def test_a_user_without_a_home_is_asked_for_a_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(OSError, match=r"^~/programs: the user has no home: name a folder"):
        CompileCache(Path("~/programs"), ())


def test_a_cache_that_exists_is_only_read(monkeypatch, tmp_path):
    """Programs may lie on a file system that is mounted read-only, for --skip-compile."""
    CompileCache(tmp_path, ())._create()
    (tmp_path / "manifest.lock").unlink(missing_ok=True)
    before = tmp_path.stat().st_mtime_ns

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(compile_cache, "_write", read_only)
    assert CompileCache(tmp_path, ()).folder == tmp_path
    assert tmp_path.stat().st_mtime_ns == before


def test_a_full_disk_keeps_no_half_written_file(monkeypatch, tmp_path):
    write_bytes = Path.write_bytes

    def full(path, content):
        write_bytes(path, content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        CompileCache(tmp_path, ())._create()
    assert {path.name for path in tmp_path.iterdir()} <= {"manifest.lock"}
