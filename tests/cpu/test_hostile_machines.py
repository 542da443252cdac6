"""Products on machines that keep numba from its files, or from working: right, warned of once.

Each is a process of its own on a copy of the package, and none is less able than one without numba.
"""

import shutil
from pathlib import Path

import pytest

from tests.support.processes import python_output

ROOT = Path(__file__).parents[2]
NOWHERE = "/proc/none"  # where not even root can make a folder
PRODUCTS = """
import sys, warnings
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from mimo_v2_flash.cpu.loading import compiled_module
    from mimo_v2_flash.kernels import ops
    from tests.support.stored_weights import KINDS, assert_is_product, random_rows, random_weight

    generator = np.random.default_rng(0)
    for kind in KINDS:
        w, x_NI = random_weight(generator, kind, 391, 300, 64), random_rows(generator, 5, 300)
        assert_is_product(ops.matmul(x_NI, w), x_NI, w)
    usable = [name for name in ("matmul", "fp8", "floats") if compiled_module(name)]
ours = [str(warning.message) for warning in caught if "numba" in str(warning.message)]
print(len(usable), len(ours), *ours)
"""
NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)
def unknown(*_):
    raise KeyError("uid not found")
pwd.getpwuid = unknown
"""
NO_RIGHTS = """  # of root, from the next start of a program on
import ctypes, os, sys
DROP_BOUND, OVERRIDES_PERMISSIONS = 24, 1
ctypes.CDLL(None).prctl(DROP_BOUND, OVERRIDES_PERMISSIONS, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
REFUSED = """
try:
    open({!r}, "w")
except PermissionError:
    print("refused", end=" ")
"""
WARNED = "1 numba cannot be used"
FOLDER = """
from mimo_v2_flash.cpu import code_cache
from pathlib import Path
print(repr(code_cache.code_folder(Path(code_cache.__file__))))
"""
BROKEN_LIBRARY = """
import builtins
load = builtins.__import__
def broken(name, *args, **kwargs):
    if name.partition(".")[0] == "llvmlite":
        raise OSError("Could not find/load shared object file: libllvmlite.so")
    return load(name, *args, **kwargs)
builtins.__import__ = broken
"""
BROKEN_COMPILER = """
from numba.core.dispatcher import Dispatcher
def fail(*_):
    raise RuntimeError("LLVM does not know this processor")
Dispatcher.compile = fail
"""
ALL, NONE = "3 0", f"0 {WARNED}"  # modules, and warnings


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """Return a folder with a copy of the package that cannot keep compiled code."""
    folder = tmp_path_factory.mktemp("installation")
    for name in ("mimo_v2_flash", "tests/support"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "neuron")
        )
    (folder / "mimo_v2_flash/cpu/__pycache__").touch()  # no folder, and nobody can make it one
    return folder


def output(installation: Path, program: str, *before: str, **environment: str) -> str:
    """Return what `program` prints in a process whose caches lie nowhere, by default."""
    nowhere = dict.fromkeys(("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "TMPDIR"), NOWHERE)
    environment = nowhere | {"PYTHONPATH": str(installation)} | environment
    return python_output(program, *before, cwd=installation, **environment)


@pytest.mark.parametrize(
    ("before", "environment", "expected"),
    [
        pytest.param("", {}, ALL, id="caches lie nowhere"),
        pytest.param(
            "",
            {"NUMBA_DISABLE_JIT": "1"},
            f"{NONE} (ImportError: NUMBA_DISABLE_JIT is set)",
            id="compilation is disabled",
        ),
        pytest.param(BROKEN_LIBRARY, {}, f"{NONE} (OSError: ", id="LLVM cannot be loaded"),
        pytest.param(BROKEN_COMPILER, {}, f"{NONE} (RuntimeError: ", id="LLVM fails"),
    ],
)
def test_products_are_right(installation, before, environment, expected):
    assert output(installation, before + PRODUCTS, **environment).startswith(expected)


@pytest.mark.parametrize(
    ("before", "environment"),
    [
        pytest.param("", {}, id="nowhere"),
        pytest.param(NO_HOME, {"XDG_CACHE_HOME": ""}, id="no home"),
    ],
)
def test_there_is_no_folder_and_no_error(installation, before, environment):
    assert output(installation, before + FOLDER, **environment) == "''\n"


def test_folders_without_write_permission_are_passed_over(installation, tmp_path):
    """Root may write everywhere: it gives up that right."""
    tmp_path.chmod(0o555)
    folders = {"NUMBA_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    refused = REFUSED.format(str(tmp_path / "file"))
    assert output(installation, refused + FOLDER, "-c", NO_RIGHTS, **folders) == "refused ''\n"
    assert list(tmp_path.iterdir()) == []
