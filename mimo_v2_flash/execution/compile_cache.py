"""A persistent compile cache: a folder of programs, keyed by module and compiler arguments.

    <name>-<digest>/program.hlo.pb  the module, as the compiler reads it
                    program.neff    the compiled program, if it has been compiled
                    record.json     inputs, outputs, sizes, compiler version, hashes of the files
                    compile.log     the compiler's output
    manifest.json                   all records

Each file is written under a temporary name and renamed, the record last. File locks serialize the
processes that write.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from mimo_v2_flash.atomic_file import atomic_write
from mimo_v2_flash.cpu.cache_folder import cache_folder
from mimo_v2_flash.json_object import parse_json_object

from .program_record import canonical, program_record

__all__ = ["COMPILE_CACHE", "CacheEntry", "CompileCache"]

COMPILE_CACHE = cache_folder() / "programs"
FORMAT = "mimo-v2-flash programs, 1"
MODULE, NEFF, RECORD, LOG = "program.hlo.pb", "program.neff", "record.json", "compile.log"
MANIFEST = "manifest.json"


class CacheEntry(NamedTuple):
    """The entry of one program in a compile cache.

    Attributes
    ----------
    folder
        Folder of the program's files.
    content
        Bytes of the module's file.
    record
        Content of record.json that is known before compilation.
    title
        Name of the program for people.
    """

    folder: Path
    content: bytes
    record: dict[str, Any]
    title: str

    @property
    def module(self) -> Path:
        """Path of the module's file."""
        return self.folder / MODULE

    @property
    def neff(self) -> Path:
        """Path of the NEFF, which the runtime loads."""
        return self.folder / NEFF

    @property
    def log(self) -> Path:
        """Path of the compiler's output."""
        return self.folder / LOG


class CompileCache:
    """A compile cache of programs that are compiled with the same compiler arguments.

    Parameters
    ----------
    folder
        Folder of the cache; created when a program is first written into it.
    arguments
        Arguments of the compiler.

    Raises
    ------
    ValueError
        If the folder holds other files; nothing has been changed then.
    OSError
        If it begins with "~" and the user has no home, or cannot be created.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        self.folder = folder = _expanded(folder)
        self.arguments = arguments
        manifest = folder / MANIFEST
        # The manifest is read last: another process may create the cache at this moment.
        if (manifest.exists() or _others(folder)) and _read_json(manifest).get("format") != FORMAT:
            raise ValueError(
                f"{folder} is not a compile cache: {MANIFEST} is missing, or its format is not "
                f"{FORMAT!r}"
            )

    def entry(self, module: Any, title: str = "") -> CacheEntry:
        """Return the entry of a program, an `HloModuleProto`, whether it is cached or not."""
        content = canonical(module)
        digest = hashlib.sha256(content + "\0".join(self.arguments).encode())
        name = f"{module.name}-{digest.hexdigest()[:16]}"
        record = program_record(module) | {"name": name, "arguments": list(self.arguments)}
        return CacheEntry(self.folder / name, content, record | {"format": FORMAT}, title)

    def why_stale(self, entry: CacheEntry, compiler: str | None) -> str | None:
        """Return why a program cannot be loaded, None if it can.

        `compiler` is the version of the installed compiler; with None, any version will do.

        Raises
        ------
        ValueError
            If the entry's folder holds another program, which is not to be overwritten.
        """
        if not entry.folder.exists():
            return "is missing"
        record = _read_json(entry.folder / RECORD)
        if record and any(record.get(key) != value for key, value in entry.record.items()):
            raise ValueError(f"{entry.folder} holds another program than its name says: remove it")
        if NEFF not in (files := record.get("files", {})):
            return "is not compiled"
        if any(files.get(path.name) != _sha256(path) for path in (entry.module, entry.neff)):
            return "is damaged"
        if compiler not in (None, record["compiler"]):
            return f"was compiled by version {record['compiler']}, installed is {compiler}"
        return None

    @contextmanager
    def writing(self, entry: CacheEntry) -> Iterator[None]:
        """Lock an entry for this process, and write its module's file."""
        self._create()
        entry.folder.mkdir(exist_ok=True)
        with _file_lock(entry.folder / RECORD):
            _write(entry.module, entry.content)
            yield

    def finish(self, entry: CacheEntry, neff: bytes | None, compiler: str | None) -> None:
        """Write a program's NEFF, if there is one, its record and the manifest.

        Parameters
        ----------
        entry : CacheEntry
            The program and its folder.
        neff : bytes or None
            What the compiler made; None without one.
        compiler : str or None
            Name and version of the compiler; None without one.
        """
        if neff is not None:
            _write(entry.neff, neff)
        written = (entry.module, entry.neff) if neff is not None else (entry.module,)
        record = entry.record | {
            "title": entry.title,
            "compiler": compiler,
            "files": {path.name: _sha256(path) for path in written},
        }
        _write(entry.folder / RECORD, _json_bytes(record))
        with _file_lock(self.folder / MANIFEST):
            self._write_manifest()

    def _create(self) -> None:
        """Create the cache, if it does not exist, as one that others can tell from their files."""
        manifest = self.folder / MANIFEST
        self.folder.mkdir(parents=True, exist_ok=True)
        with _file_lock(manifest):
            if not manifest.exists():
                self._write_manifest()

    def _write_manifest(self) -> None:
        records = [_read_json(path) for path in sorted(self.folder.glob(f"*/{RECORD}"))]
        _write(self.folder / MANIFEST, _json_bytes({"format": FORMAT, "programs": records}))


def _expanded(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise OSError(f"{folder}: the user has no home: name a folder for the programs") from error


def _others(folder: Path) -> list[Path]:
    """Return the files of a folder, without the lock and temporary files of a manifest."""
    names = (f"{Path(MANIFEST).stem}.", f".{MANIFEST}.")
    return [path for path in folder.glob("*") if not path.name.startswith(names)]


def _file_lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"))


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one if the file is absent or damaged."""
    try:
        return parse_json_object(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _json_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as partial:
        partial.write_bytes(content)
