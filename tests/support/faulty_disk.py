"""A disk that fails at one of the changes that a program makes to it: kills, and full disks.

with FaultyDisk(last=7): ...                    # killed at the eighth change, half-way through it
with FaultyDisk(7, error=OSError(28, "full")): ...   # refused once, and the program goes on
"""

import os
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

__all__ = ["FaultyDisk", "Killed"]


class Killed(BaseException):
    """The process has been killed: it changes nothing any more, whatever it catches."""


class FaultyDisk:
    """While the block runs, the change after `last` of them fails; None fails never.

    Changes are writes and truncations of files that `Path.open` opened, fsync, replace, unlink,
    touch and mkdir. A write that fails has written half of its bytes.

    Parameters
    ----------
    last
        How many changes succeed.
    error
        What is raised then; after `Killed` by every later change as well.
    ends
        Only changes of files whose name ends so count.
    """

    def __init__(
        self, last: int | None = None, error: BaseException | None = None, ends: str = ""
    ) -> None:
        self.last, self.error, self.ends, self.changes = last, error or Killed(), ends, []
        self._lock = Lock()

    def __enter__(self) -> "FaultyDisk":
        self._patches = [
            patch.object(Path, "open", self._open()),
            patch.object(os, "fsync", self._fsync()),
        ]
        self._patches += [
            patch.object(Path, n, self._counted(n)) for n in ("replace", "unlink", "touch", "mkdir")
        ]
        for patched in self._patches:
            patched.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patched in self._patches:
            patched.stop()

    def fails(self, what: str) -> bool:
        """Count a change, and return whether it is to fail."""
        with self._lock:
            if not what.endswith(self.ends):
                return False
            self.changes.append(what)
            beyond = self.last is not None and len(self.changes) > self.last
            return beyond and (isinstance(self.error, Killed) or len(self.changes) == self.last + 1)

    def _counted(self, name: str) -> Any:
        real = getattr(Path, name)

        def change(path: Path, *arguments: Any, **options: Any) -> Any:
            if self.fails(f"{name} {path}"):
                raise self.error
            return real(path, *arguments, **options)

        return change

    def _fsync(self) -> Any:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            if self.fails("fsync"):
                raise self.error
            real(descriptor)

        return fsync

    def _open(self) -> Any:
        real = Path.open

        def opens(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wa+"):
                return real(path, mode, *arguments, **options)
            if "r" not in mode and self.fails(f"create {path}"):
                raise self.error
            return _File(self, path, real(path, mode, *arguments, **options))

        return opens


class _File:
    """A file whose writes count, and reach the disk at once."""

    def __init__(self, disk: FaultyDisk, path: Path, file: Any) -> None:
        self._disk, self._path, self._file = disk, path, file

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        fails = self._disk.fails(f"write {self._path}")
        self._file.write(data[: len(data) // 2] if fails else data)
        self._file.flush()
        if fails:
            raise self._disk.error
        return len(data)

    def truncate(self, size: int) -> int:
        if self._disk.fails(f"truncate {self._path}"):
            raise self._disk.error
        return self._file.truncate(size)
