"""Compiled functions whose code on disk is never stale: its folder is named by their sources.

Numba looks at the file of a function alone, not at the decoders and tiles that it inlines from
other files. The folders of older sources are removed but for the last `KEPT`. Code on disk only
saves time: what cannot be read or written is compiled in memory.

Source: numba, notes on caching; `NUMBA_CACHE_DIR` is the folder to begin with where it is set.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import FunctionCache

from .cache_folder import cache_folder
from .tile import LANES

__all__ = ["SUM_ORDER", "compile_now", "compiled", "digest_folder", "source_digest"]

SUM_ORDER = {"reassoc", "contract", "nsz", "arcp"}  # of `fastmath`: sums in any order
SOURCES = (Path(__file__).parent, Path(__file__).parents[1] / "quantization")
KEPT = 4  # folders, so that a few versions or kinds of processors share a disk
_lock = threading.Lock()

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")  # then numba runs its loops in Python


def source_digest(*folders: Path) -> str:
    """Return a digest of all sources in `folders`, and of the lanes, which are the machine's."""
    digest = blake2b(str(LANES).encode(), digest_size=8)
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        digest.update(f"\0{file.parent.name}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def digest_folder(bases: Iterable[Path], digest: str) -> str:
    """Return the folder of `digest` in the first of `bases` that can be written, or ""."""
    for base in bases:
        try:
            folder = base.expanduser() / f"mimo-{digest}"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                os.utime(folder)
        except (OSError, RuntimeError):  # RuntimeError: there is no home
            continue
        _remove_old(folder.parent)
        return str(folder)
    return ""


def _remove_old(base: Path) -> None:
    """Remove the folders in `base` but for the last used; what reads them compiles anew."""
    with suppress(OSError):  # another process removes them too
        folders = sorted(
            base.glob(f"mimo-{'[0-9a-f]' * 16}"), key=lambda folder: folder.stat().st_mtime_ns
        )
        for folder in folders[:-KEPT]:
            shutil.rmtree(folder, ignore_errors=True)


def _bases() -> Iterator[Path]:
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__"
    yield cache_folder() / "numba"


class _CodeOnDisk(FunctionCache):  # type: ignore[misc]  # numba has no types
    """Numba's code of a function in `FOLDER`: damage, a full disk and the like cost time alone."""

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
        if not FOLDER:
            return dispatcher
        with _lock:
            before, config.CACHE_DIR = config.CACHE_DIR, FOLDER
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


HAS_SOURCES = Path(__file__).with_suffix(".py").is_file()  # not so in archives of any kind
FOLDER = digest_folder(_bases(), source_digest(*SOURCES)) if HAS_SOURCES else ""
