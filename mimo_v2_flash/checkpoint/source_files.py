"""States of a source's files, by which a change between two runs is noticed without reading all.

A state has size, modification time and a digest: of a weight file's whole header and of samples of
its data, of any other file's every byte. A change that keeps size and time and misses the samples
is not seen; where a state differs, `mimo prepare --verify` compares every tensor.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.io_threads import parallel_map

from .safetensors_file import LARGEST_HEADER

__all__ = ["FileState", "content_digest", "file_changes", "file_states", "parse_states"]

SAMPLE, SAMPLES = 1 << 13, 32  # bytes of a sample, and about how many a file has
THREADS = 8


class FileState(NamedTuple):
    """A file's size in bytes, its modification time in nanoseconds, and the digest of samples."""

    size: int
    mtime_ns: int
    digest: str


def file_states(paths: Iterable[Path]) -> dict[str, FileState]:
    """Return the state of each file, by the file's name."""
    unique = sorted(set(paths))
    states = parallel_map(_file_state, unique, THREADS)
    return {path.name: state for path, state in zip(unique, states, strict=True)}


def content_digest(states: Mapping[str, FileState]) -> str:
    """Return a digest of names, sizes and samples; an empty string of no files.

    Times are not in it: a copy has the digest of its original.
    """
    content = [(name, state.size, state.digest) for name, state in sorted(states.items())]
    return sha256(repr(content).encode()).hexdigest() if content else ""


def file_changes(before: Mapping[str, FileState], after: Mapping[str, FileState]) -> list[str]:
    """Return a line for each file that changed, such as "x.safetensors has another size"."""
    names = sorted(before.keys() | after.keys())
    return [f"{name} {change}" for name in names if (change := _change(name, before, after))]


def parse_states(states: Any) -> dict[str, FileState]:
    """Return states from their JSON; ValueError or TypeError if it is damaged."""
    return {
        str(name): FileState(index(size), index(mtime_ns), str(digest))
        for name, (size, mtime_ns, digest) in dict(states).items()
    }


def _change(name: str, before: Mapping[str, FileState], after: Mapping[str, FileState]) -> str:
    if name not in before or name not in after:
        return "is new" if name in after else "is missing"
    old, new = before[name], after[name]
    if old.size != new.size:
        return f"has {new.size:,} bytes, not {old.size:,}"
    if old.digest != new.digest:
        return "has other content"
    return "has another modification time" if old != new else ""


def _file_state(path: Path) -> FileState:
    digest = sha256()
    with path.open("rb") as file:
        stat = path.stat()
        header = 8 + min(int.from_bytes(file.read(8), "little"), LARGEST_HEADER)
        file.seek(0)
        digest.update(file.read(header if path.suffix == ".safetensors" else stat.st_size))
        step = max(SAMPLE, stat.st_size // SAMPLES)
        for begin in (*range(0, stat.st_size, step), max(stat.st_size - SAMPLE, 0)):
            file.seek(begin)
            digest.update(file.read(SAMPLE))
    return FileState(stat.st_size, stat.st_mtime_ns, digest.hexdigest())
