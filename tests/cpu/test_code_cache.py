"""Tests of the compiled code in new processes: without numba, cached on disk, on a generic CPU."""

import ast
import json
import os
import resource
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from numba import config, intp, none
from numba.core import caching
from numba.core.errors import TypingError

from mimo_v2_flash.cpu import code_cache
from mimo_v2_flash.cpu.code_cache import (
    KEPT,
    code_folder,
    digest_folder,
    imported_sources,
    source_digest,
)
from tests.support.processes import ROOT, python_output

PRODUCTS = """
import json, sys
import numpy as np
from mimo_v2_flash.kernels import ops
from tests.support.stored_weights import KINDS, assert_is_product, random_rows, random_weight

generator = np.random.default_rng(0)
for kind in KINDS:
    w = random_weight(generator, kind, 391, 300, 64)
    for N in (1, 5, 60):
        x_NI = random_rows(generator, N, 300)
        assert_is_product(ops.matmul(x_NI, w), x_NI, w)
target = sys.modules["numba"].core.registry.cpu_target.target_context.codegen()
print(json.dumps({"cpu": target._get_host_cpu_name(), "features": target._get_host_cpu_features()}))
"""
WITHOUT = """
import sys
sys.modules["numba"] = None
import numpy as np
from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.matmul import plain_matmul
from tests.support.stored_weights import KINDS, assert_is_product, random_rows, random_weight

generator = np.random.default_rng(0)
for kind in KINDS:
    w, x_NI = random_weight(generator, kind, 391, 300, 64), random_rows(generator, 5, 300)
    y_NO = ops.matmul(x_NI, w)
    assert_is_product(y_NO, x_NI, w)
    assert np.array_equal(y_NO, plain_matmul(x_NI, w))
assert compiled_module("matmul") is None
"""
PRODUCT_OF_MINUS_ONE = """
import numpy as np
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.quantization.fp8 import quantize

w = quantize(-np.ones((256, 256), np.float32))
print(np.rint(ops.matmul(np.ones((2, 256), np.float32), w)).tolist())
"""
HOST, GENERIC = {}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


def compiled_files(folder: Path) -> dict[str, Any]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.nb?")}


@pytest.mark.parametrize("machine", [HOST, GENERIC], ids=["this machine", "any machine"])
def test_the_second_start_compiles_nothing_and_both_are_right(tmp_path, machine):
    environment = machine | {"NUMBA_CACHE_DIR": str(tmp_path)}
    target = json.loads(python_output(PRODUCTS, **environment))
    if machine is GENERIC:
        assert target == {"cpu": "generic", "features": ""}
    compiled = compiled_files(tmp_path)
    assert compiled
    assert all(file.startswith(f"{tmp_path}/mimo-") for file in compiled)
    python_output(PRODUCTS, **environment)
    assert compiled_files(tmp_path) == compiled


def test_without_numba_numpy_multiplies():
    python_output(WITHOUT)


def test_an_edited_decoder_is_compiled_anew(tmp_path):
    """The decoder is inlined from another file than the loop's, and its time and size are kept."""
    shutil.copytree(
        ROOT / "mimo_v2_flash", tmp_path / "mimo_v2_flash", ignore=lambda *_: ["__pycache__"]
    )
    decoder, cache = tmp_path / "mimo_v2_flash/cpu/tile.py", tmp_path / "cache"
    source, status = decoder.read_text(), decoder.stat()

    def product() -> Any:
        return json.loads(
            # Python's own cache would take a source of the same time and size for unchanged.
            python_output(*(PRODUCT_OF_MINUS_ONE, "-B"), cwd=tmp_path, NUMBA_CACHE_DIR=str(cache))
        )

    assert product() == [[-256] * 256] * 2
    assert source.count("splat(WORDS, mask)") == 1
    decoder.write_text(source.replace("splat(WORDS, mask)", "splat(WORDS, 0x00)"))
    os.utime(decoder, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert product() == [[0] * 256] * 2
    decoder.write_text(source)
    before = compiled_files(cache)
    assert product() == [[-256] * 256] * 2
    assert compiled_files(cache) == before


def test_a_digest_is_of_every_source(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("1")
    second.write_text("2")
    digests = [source_digest([first, second]), source_digest([first])]
    second.write_text("3")
    digests.append(source_digest([first, second]))
    second.rename(tmp_path / "c.py")
    digests.append(source_digest([first, tmp_path / "c.py"]))
    assert len(set(digests)) == 4
    second.write_text("2")
    assert source_digest([second, first]) == digests[0]


MODULES = sorted((ROOT / "mimo_v2_flash" / "cpu").glob("*.py"))


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_the_sources_of_code_are_all_that_its_module_imports(file):
    """Here by the syntax tree: a name's last part, or the part before it, is a module's."""
    expected, waiting = {file}, [file]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            if isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            stems = {str(name).rpartition(".")[2] for name in names}
            new = {each for each in MODULES if each.stem in stems} - expected
            new = {each for each in new if getattr(node, "level", 0) or "mimo" in str(names)}
            expected |= new
            waiting += new
    assert imported_sources(file) == expected


def test_code_of_a_file_elsewhere_may_use_all_modules(monkeypatch, tmp_path):
    digests = []
    monkeypatch.setattr(code_cache, "digest_folder", lambda _, name: digests.append(name) or "")
    monkeypatch.setattr(code_cache, "SOURCES", tmp_path)
    file = tmp_path / "elsewhere" / "toy.py"
    file.parent.mkdir()
    file.write_text("")
    for text in ("1", "2"):
        (tmp_path / "tile.py").write_text(text)
        assert code_folder.__wrapped__(file) == ""
    assert [name.rpartition("-")[0] for name in digests] == ["toy", "toy"]
    assert len(set(digests)) == 2
    assert code_folder.__wrapped__(tmp_path / "none.py") == ""


def test_a_base_that_cannot_be_written_is_passed_over(tmp_path):
    file = tmp_path / "file"
    file.touch()
    bases = [file, file / "below", tmp_path / "new" / "base", tmp_path]
    assert digest_folder(bases, "0123") == str(tmp_path / "new" / "base" / "mimo-0123")
    assert digest_folder(bases[:2], "0123") == ""


def test_the_folders_that_were_used_last_are_kept(tmp_path):
    """What is not a digest's stays whatever its age, and so does what lies in a folder kept."""
    names = ("mimo-tiny", "numba", "mimo-fp8-0000000000000000.txt", "mimo-mxfp8-0000000000000000")
    others = [tmp_path / name for name in names]
    for other in others:
        other.mkdir()
        os.utime(other, (0, 0))
    digests = [f"fp8-{number:016x}" for number in range(KEPT + 2)]
    for seconds, digest in enumerate(digests):
        folder = Path(digest_folder([tmp_path], digest))
        (folder / "code.nbi").touch()
        os.utime(folder, (seconds, seconds))
    assert digest_folder([tmp_path], digests[2]) == str(tmp_path / f"mimo-{digests[2]}")
    new = f"fp8-{'f' * 16}"
    assert digest_folder([tmp_path], new) == str(tmp_path / f"mimo-{new}")
    kept = {path.parent.name.removeprefix("mimo-") for path in tmp_path.glob("mimo-*/code.nbi")}
    assert kept == {*digests[4:], digests[2]}
    assert all(other.is_dir() for other in others)


def double(x):
    return 2 * x


def test_without_a_folder_functions_are_compiled_and_not_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(code_cache, "code_folder", lambda _: "")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert code_cache.compiled()(double)(21) == 42
    assert str(tmp_path) == config.CACHE_DIR
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Give compiled functions a folder of the test."""
    monkeypatch.setattr(code_cache, "code_folder", lambda _: str(tmp_path))
    return tmp_path


def test_code_is_kept_and_read(folder):
    assert code_cache.compiled()(double)(21) == 42
    before = compiled_files(folder)
    again = code_cache.compiled()(double)
    assert again(21) == 42
    assert (len(before), compiled_files(folder)) == (2, before)
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("left", [0, 1, 60])
def test_damaged_code_is_compiled_anew(folder, left):
    code_cache.compiled()(double)(21)
    for file in compiled_files(folder):
        Path(file).write_bytes(Path(file).read_bytes()[:left])
    assert code_cache.compiled()(double)(21) == 42


def test_a_full_disk_keeps_no_code_and_fails_nothing(folder):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        result = code_cache.compiled()(double)(21)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result == 42
    assert compiled_files(folder) == {}


@pytest.mark.parametrize("gone", ["folder", "locators"])
def test_a_folder_that_numba_cannot_use_fails_nothing(monkeypatch, folder, gone):
    if gone == "folder":
        monkeypatch.setattr(code_cache, "code_folder", lambda _: "/proc/none")
        monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    else:
        monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "no.such.Locator")
    assert code_cache.compiled()(double)(21) == 42


def test_threads_that_compile_at_once_leave_the_hosts_folder(monkeypatch, folder):
    """Numba has one folder for the process: it is ours while a function is declared."""
    monkeypatch.setattr(config, "CACHE_DIR", "the host's")
    second, seen = threading.Barrier(2, timeout=0.3), []

    class Slow(code_cache._CodeOnDisk):
        def __init__(self, function):
            with suppress(threading.BrokenBarrierError):
                second.wait()
            seen.append(config.CACHE_DIR)
            super().__init__(function)

    monkeypatch.setattr(code_cache, "_CodeOnDisk", Slow)
    threads = [threading.Thread(target=code_cache.compiled(), args=(double,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [str(folder)] * 2
    assert config.CACHE_DIR == "the host's"


def test_a_function_is_compiled_for_the_named_types_alone(folder):
    function = code_cache.compiled()(double)
    code_cache.compile_now(function, intp)
    assert function(21) == 42
    with pytest.raises(TypeError, match="No matching definition"):
        function("text")
    with pytest.raises(TypingError):
        code_cache.compile_now(code_cache.compiled()(double), none)
