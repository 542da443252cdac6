"""The compile cache: entries that are damaged, stale or foreign are never loaded."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

from mimo_v2_flash.execution import compile_cache  # noqa: E402
from mimo_v2_flash.execution.compile_cache import CompileCache  # noqa: E402
from mimo_v2_flash.execution.tracing import trace  # noqa: E402

ARGUMENTS = ("--target", "trn2")


def doubled(x):
    return x + x


def module_of(length: int):
    return trace(doubled, {"x": np.ones(length, np.float32)}).module


def write(folder: Path, length: int = 2, neff: bytes | None = b"neff", compiler="1"):
    cache = CompileCache(folder, ARGUMENTS)
    entry = cache.entry(module_of(length))
    with cache.writing(entry):
        cache.finish(entry, neff, compiler)
    return cache, entry


def write_several(folder: Path) -> None:
    for length in range(1, 9):
        write(folder, length)


def manifest(folder: Path) -> list[str]:
    return [
        program["name"]
        for program in json.loads((folder / "manifest.json").read_text())["programs"]
    ]


def test_what_is_written_can_be_loaded(tmp_path):
    cache, entry = write(tmp_path / "new")
    assert cache.why_stale(entry, "1") is cache.why_stale(entry, None) is None
    assert entry.neff.read_bytes() == b"neff"
    assert manifest(tmp_path / "new") == [entry.folder.name]
    record = json.loads((entry.folder / "record.json").read_text())
    assert record["compiler"] == "1"
    assert record["inputs"][0]["shape"] == [2]
    assert not list(tmp_path.rglob("*.[0-9]*"))  # nothing half-written stays


def test_a_place_depends_on_the_program_and_the_arguments(tmp_path):
    cache, other = (
        CompileCache(tmp_path, ARGUMENTS),
        CompileCache(tmp_path, ("--target", "trn3")),
    )
    entries = (
        cache.entry(module_of(2)),
        cache.entry(module_of(3)),
        other.entry(module_of(2)),
    )
    assert len({entry.folder for entry in entries}) == 3
    assert cache.entry(module_of(2)).folder == entries[0].folder
    assert [cache.why_stale(entry, "1") for entry in entries[:2]] == ["is missing"] * 2


def test_a_module_alone_is_not_compiled(tmp_path):
    cache, entry = write(tmp_path, neff=None, compiler=None)
    assert cache.why_stale(entry, "1") == cache.why_stale(entry, None) == "is not compiled"
    assert manifest(tmp_path) == [entry.folder.name]


@pytest.mark.parametrize("file", ["program.neff", "program.hlo.pb"])
@pytest.mark.parametrize("fault", ["other", "absent"])
def test_a_damaged_file_is_noticed(tmp_path, file, fault):
    cache, entry = write(tmp_path)
    path = entry.folder / file
    path.write_bytes(b"x" + path.read_bytes()[1:])
    if fault == "absent":
        path.unlink()
    assert cache.why_stale(entry, "1") == "is damaged"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_without_a_record_nothing_is_trusted(tmp_path, content):
    cache, entry = write(tmp_path)
    (entry.folder / "record.json").write_bytes(content)
    assert cache.why_stale(entry, "1") == "is not compiled"


def test_what_another_compiler_made_is_stale(tmp_path):
    cache, entry = write(tmp_path, compiler="1")
    assert cache.why_stale(entry, "2") == "was compiled by version 1, installed is 2"


def test_another_program_under_this_name_is_not_overwritten(tmp_path):
    cache, entry = write(tmp_path)
    foreign = cache.entry(module_of(3))
    entry.folder.rename(foreign.folder)
    with pytest.raises(ValueError, match="holds another program than its name says: remove it"):
        cache.why_stale(foreign, "1")


@pytest.mark.parametrize("file", ["notes.txt", "manifest.json"])
def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path, file):
    (tmp_path / file).write_text("{}")
    with pytest.raises(ValueError, match="is not a compile cache"):
        CompileCache(tmp_path, ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_a_cache_that_another_process_creates_at_this_moment_is_used(tmp_path, monkeypatch):
    def created_meanwhile(folder):
        monkeypatch.undo()
        cache = CompileCache(folder, ARGUMENTS)
        entry = cache.entry(module_of(1))
        with cache.writing(entry):
            cache.finish(entry, b"neff", "1")
        return [entry.folder]

    monkeypatch.setattr(compile_cache, "_others", created_meanwhile)
    cache = CompileCache(tmp_path, ARGUMENTS)
    assert cache.why_stale(cache.entry(module_of(1)), "1") is None


def test_processes_that_write_together_lose_nothing(tmp_path):
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        list(pool.map(write_several, [tmp_path] * 3))
    assert len(manifest(tmp_path)) == 8
    cache = CompileCache(tmp_path, ARGUMENTS)
    for length in range(1, 9):
        assert cache.why_stale(cache.entry(module_of(length)), "1") is None


def test_a_cache_that_is_only_read_is_not_created(tmp_path):
    """`--skip-compile` with a folder that does not exist must not make it."""
    folder = tmp_path / "absent"
    cache = CompileCache(folder, ARGUMENTS)
    assert cache.why_stale(cache.entry(module_of(2)), None) == "is missing"
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\x80", b"[" * 100_000, b'{"files": 1'])
def test_a_damaged_record_is_a_program_that_is_not_compiled(tmp_path, content):
    cache, entry = write(tmp_path)
    (entry.folder / "record.json").write_bytes(content)
    assert cache.why_stale(entry, None) == "is not compiled"
