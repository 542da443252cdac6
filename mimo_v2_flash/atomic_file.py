"""Atomic replacement of files: a reader sees the former content or all of the new, never a part.

Source: fsync(2). A file that was renamed may be empty after a power failure unless its data was
synced before, and its new name is durable once its folder is synced.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PARTIAL", "atomic_write", "naming", "partial_path", "sync_folder"]

PARTIAL = ".partial"
"""The end of temporary names."""


@contextmanager
def atomic_write(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write; at the end of the block the file replaces `path`.

    A block that fails leaves `path` as it was, and no temporary file. An OSError names `path`. A
    link stays one, and a device or a pipe is written itself.

    Parameters
    ----------
    path
        The file to write.
    partial
        The temporary path, in the same folder; by default one that no other process uses.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    hidden = None
    if partial is None:
        path = path.resolve()
        partial = hidden = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with naming(path, hidden):
            yield partial
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def naming(path: Path, hidden: Path | None = None) -> Iterator[None]:
    """Name `path` in an OSError of the block that names `hidden` or, as writes do, no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(hidden)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def partial_path(path: Path) -> Path:
    """Return the temporary path of a file that only one process writes at a time."""
    return path.with_name(f"{path.name}{PARTIAL}")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can: Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not sync folders
            raise
    finally:
        os.close(descriptor)
