"""Compiled functions whose code on disk is never stale: its folder is named by their sources.

Numba looks at the file of a function alone, not at the decoders and tiles that it inlines from
other files. Folders of older sources are left; deleting `__pycache__` is always safe.

Source: numba, notes on caching; `NUMBA_CACHE_DIR` is the folder to begin with where it is set.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import config, njit

from .tile import LANES

__all__ = ["SUM_ORDER", "compiled", "digest_folder", "source_digest"]

SUM_ORDER = {"reassoc", "contract", "nsz", "arcp"}  # of `fastmath`: sums in any order
SOURCES = (Path(__file__).parent, Path(__file__).parents[1] / "quantization")


def source_digest(*folders: Path) -> str:
    """Return a digest of all sources in `folders`, and of the lanes, which are the machine's."""
    digest = blake2b(str(LANES).encode(), digest_size=8)
    for file in sorted(file for folder in folders for file in folder.glob("*.py")):
        digest.update(f"\0{file.parent.name}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def digest_folder(bases: Iterable[Path], digest: str) -> str:
    """Return the folder of `digest` in the first of `bases` that can be written, or ""."""
    for base in bases:
        folder = base / f"mimo-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return str(folder)
        except OSError:
            continue
    return ""


def _bases() -> Iterator[Path]:
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    yield Path(__file__).parent / "__pycache__"
    with suppress(RuntimeError):  # there is no home
        yield Path.home() / ".cache" / "mimo-v2-flash" / "numba"


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return numba's decorator with `options`: without the GIL, and with code on disk if it can."""

    def decorate(function: Callable[..., Any]) -> Any:
        before, config.CACHE_DIR = config.CACHE_DIR, FOLDER
        try:
            return njit(nogil=True, cache=bool(FOLDER), **options)(function)
        finally:
            config.CACHE_DIR = before

    return decorate


HAS_SOURCES = Path(__file__).with_suffix(".py").is_file()  # not so in archives of any kind
FOLDER = digest_folder(_bases(), source_digest(*SOURCES)) if HAS_SOURCES else ""
