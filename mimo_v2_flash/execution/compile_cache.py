"""A folder of programs, each under a hash of its module and of the compiler's arguments.

    <name>-<digest>/program.hlo.pb  the module that the compiler is given
                    program.neff    what it makes of it, if it has
                    record.json     inputs, outputs, sizes, who compiled it, the files' hashes
                    compile.log     what the compiler said
    manifest.json                   every record

Files are written under another name and renamed, the record last; processes take turns by a lock.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .program_record import canonical, program_record

__all__ = ["CacheEntry", "CompileCache"]

FORMAT = "mimo-v2-flash programs, 1"
MODULE, NEFF, RECORD, LOG = "program.hlo.pb", "program.neff", "record.json", "compile.log"
MANIFEST = "manifest.json"


class CacheEntry(NamedTuple):
    """A program's place.

    Attributes
    ----------
    folder
        Where its files are.
    content
        Of its module's file.
    record
        All but who compiled it.
    title
        For people.
    """

    folder: Path
    content: bytes
    record: dict[str, Any]
    title: str

    @property
    def module(self) -> Path:
        """The module's file."""
        return self.folder / MODULE

    @property
    def neff(self) -> Path:
        """The file that the runtime loads."""
        return self.folder / NEFF

    @property
    def log(self) -> Path:
        """What the compiler said."""
        return self.folder / LOG


class CompileCache:
    """The programs in a folder, compiled with the same arguments.

    Parameters
    ----------
    folder
        Made if it is not there.
    arguments
        The compiler's.

    Raises
    ------
    ValueError
        If the folder holds other things; nothing has been changed then.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        self.folder, self.arguments = folder, arguments
        manifest = folder / MANIFEST
        if _json(manifest).get("format") != FORMAT and (manifest.exists() or _others(folder)):
            raise ValueError(
                f"{folder} is no folder of programs: it has not {MANIFEST} of {FORMAT}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(manifest):
            if not manifest.exists():
                self._write_manifest()

    def entry(self, module: Any, title: str = "") -> CacheEntry:
        """Return the place of a program, an `HloModuleProto`, whether it is there or not."""
        content = canonical(module)
        told = hashlib.sha256(content + "\0".join(self.arguments).encode())
        name = f"{module.name}-{told.hexdigest()[:16]}"
        record = program_record(module) | {"name": name, "arguments": list(self.arguments)}
        return CacheEntry(self.folder / name, content, record | {"format": FORMAT}, title)

    def why_stale(self, entry: CacheEntry, compiler: str | None) -> str | None:
        """Return why a program cannot be loaded, None if it can.

        `compiler` is the version of the one that is installed; without one, any will do.

        Raises
        ------
        ValueError
            If in its place lies something else, which is not ours to overwrite.
        """
        if not entry.folder.exists():
            return "is missing"
        found = _json(entry.folder / RECORD)
        if found and any(found.get(key) != value for key, value in entry.record.items()):
            raise ValueError(f"{entry.folder} holds another program than its name says: remove it")
        if NEFF not in (files := found.get("files", {})):
            return "is not compiled"
        if any(files.get(path.name) != _hash(path) for path in (entry.module, entry.neff)):
            return "is damaged"
        if compiler not in (None, found["compiler"]):
            return f"was compiled by version {found['compiler']}, installed is {compiler}"
        return None

    @contextmanager
    def writing(self, entry: CacheEntry) -> Iterator[None]:
        """Be the only process that writes a program; its module's file is there."""
        entry.folder.mkdir(exist_ok=True)
        with _locked(entry.folder / RECORD):
            _write(entry.module, entry.content)
            yield

    def finish(self, entry: CacheEntry, neff: bytes | None, compiler: str | None) -> None:
        """Write a program's NEFF, if there is one, its record and the manifest."""
        if neff is not None:
            _write(entry.neff, neff)
        written = (entry.module, entry.neff) if neff is not None else (entry.module,)
        record = entry.record | {
            "title": entry.title,
            "compiler": compiler,
            "files": {path.name: _hash(path) for path in written},
        }
        _write(entry.folder / RECORD, _text(record))
        with _locked(self.folder / MANIFEST):
            self._write_manifest()

    def _write_manifest(self) -> None:
        records = [_json(path) for path in sorted(self.folder.glob(f"*/{RECORD}"))]
        _write(self.folder / MANIFEST, _text({"format": FORMAT, "programs": records}))


def _others(folder: Path) -> list[Path]:
    """Return what is in a folder beside a manifest that is being written."""
    stem = Path(MANIFEST).stem
    return [path for path in folder.glob("*") if not path.name.startswith(f"{stem}.")]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _json(path: Path) -> dict[str, Any]:
    """Return what is in a file, nothing if it is absent or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file that is never seen half-written."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.replace(path)
