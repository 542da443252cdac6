"""Compiled functions whose code on disk is never stale: its folder is named by their sources.

Numba looks at the file of a function alone, not at the decoders and tiles that it inlines from
other files: those that its module imports, and those that they do. The folders of a module's older
sources are removed but for the last `KEPT`. Code on disk only saves time: what cannot be read or
written is compiled in memory.

Source: numba, notes on caching; `NUMBA_CACHE_DIR` is the folder to begin with where it is set.
"""

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache

from .cache_folder import cache_folder
from .tile import LANES

__all__ = [
    "SUM_ORDER", "code_folder", "compile_now", "compiled", "digest_folder", "imported_sources",
    "source_digest",
]  # fmt: skip

SUM_ORDER = {"reassoc", "contract", "nsz", "arcp"}  # of `fastmath`: sums in any order
SOURCES = Path(__file__).parent
DIGITS = 16  # of a digest
KEPT = 4  # folders of a module, so that a few versions or kinds of processors share a disk
IMPORT = re.compile(r"^ *from (?:\.|mimo_v2_flash\.cpu\.)(\w+) import", re.MULTILINE)
BASES = [SOURCES / "__pycache__", cache_folder() / "numba"]
if config.CACHE_DIR:
    BASES.insert(0, Path(config.CACHE_DIR))
_lock = threading.Lock()

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")  # then numba runs its loops in Python


_read_once = cache(Path.read_bytes)


@cache
def _imports(file: Path) -> set[Path]:
    names = IMPORT.findall(_read_once(file).decode())
    return {file.with_name(f"{name}.py") for name in names}


def imported_sources(file: Path) -> set[Path]:
    """Return a module's file, and those in its folder that it imports, directly or not."""
    sources, waiting = {file}, [file]
    while waiting:
        imported = _imports(waiting.pop()) - sources
        sources |= imported
        waiting += imported
    return sources


def source_digest(files: Iterable[Path], read: Callable[[Path], bytes] = Path.read_bytes) -> str:
    """Return a digest of sources, and of the lanes, which are the machine's."""
    digest = blake2b(str(LANES).encode(), digest_size=DIGITS // 2)
    for file in sorted(files):
        digest.update(f"\0{file.name}\0".encode() + read(file))
    return digest.hexdigest()


@cache
def code_folder(file: Path) -> str:
    """Return the folder for code of the functions in `file`, or "" if there is none.

    A file that is no module of this package may use all of them.
    """
    try:
        if file.parent == SOURCES:
            digest = source_digest(imported_sources(file), _read_once)
        else:
            digest = source_digest({file, *SOURCES.glob("*.py")})
        return digest_folder(BASES, f"{file.stem}-{digest}")
    except OSError:  # there are no sources in archives of any kind
        return ""


def digest_folder(bases: Iterable[Path], name: str) -> str:
    """Return the folder of `name`, which ends in a digest, in the first of `bases` that it can."""
    for base in bases:
        try:
            folder = base.expanduser() / f"mimo-{name}"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                os.utime(folder)
        except (OSError, RuntimeError):  # RuntimeError: there is no home
            continue
        _remove_old(folder)
        return str(folder)
    return ""


def _remove_old(folder: Path) -> None:
    """Remove a module's folders but for the last used; what reads them compiles anew."""
    pattern = folder.name[:-DIGITS] + "[0-9a-f]" * DIGITS
    with suppress(OSError):  # another process removes them too
        folders = sorted(folder.parent.glob(pattern), key=lambda each: each.stat().st_mtime_ns)
        for old in folders[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


class _CodeOnDisk(FunctionCache):  # type: ignore[misc]  # numba has no types
    """Numba's code of a function on disk: damage, a full disk and the like cost time alone."""

    def load_overload(self, *args: Any) -> Any:
        """Return the code, or None if it cannot be read."""
        with suppress(Exception):
            return super().load_overload(*args)
        return None

    def save_overload(self, *args: Any) -> None:
        """Write the code, if it can be written."""
        with suppress(Exception):
            super().save_overload(*args)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return numba's decorator with `options`: without the GIL, and with code on disk if it can.

    Division by zero is NumPy's: a check of each divisor would keep loops from being vectors.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, error_model="numpy", **options)(function)
        folder = code_folder(Path(function.__code__.co_filename))
        if not folder:
            return dispatcher
        with _lock:
            before, config.CACHE_DIR = config.CACHE_DIR, folder
            try:
                with suppress(Exception):  # it may be gone, or NUMBA_CACHE_LOCATOR_CLASSES wrong
                    dispatcher._cache = _CodeOnDisk(function)  # as `cache=True` does
            finally:
                config.CACHE_DIR = before
        return dispatcher

    return decorate


def compile_now(function: Any, *arguments: Any) -> None:
    """Compile a function for these types of its arguments, and for no others.

    So whatever keeps numba from compiling is known when a module is loaded (`loading.py`).
    """
    function.compile(arguments)
    function.disable_compile()
