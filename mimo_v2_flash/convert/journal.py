"""Journal of a conversion: which job of which source it is, and the pieces that are on disk.

A line is JSON behind its CRC-32, so that a torn or damaged line counts as absent. Each piece has
its own CRC-32: of the checksums in the standard library the fastest by three times, and it misses
no burst of up to 32 bits. The files' SHA-256 in the index is for what lasts longer.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from mimo_v2_flash.atomic_file import PARTIAL, atomic_write, naming, partial_path
from mimo_v2_flash.checkpoint.source_files import FileState, parse_states
from mimo_v2_flash.json_object import shorten

__all__ = ["Journal", "JournalHead", "Piece"]

FORMAT = "mimo-v2-flash journal, 2"
FORMER_HEAD = re.compile(rb"[0-9a-f]{64}")  # the first line of the last release's: the job alone

Tasks = dict[str, list["Piece"]]


class Piece(NamedTuple):
    """Bytes that a task has written: their file, the first of them, how many, and their CRC-32."""

    file: str
    begin: int
    size: int
    crc: int

    def is_intact(self, path: Path) -> bool:
        """Return whether the file at `path` holds these bytes."""
        with path.open("rb") as opened:
            opened.seek(self.begin)
            data = opened.read(self.size)
        return len(data) == self.size and zlib.crc32(data) == self.crc


class JournalHead(NamedTuple):
    """What an interrupted run was about: a digest of its files' headers, and its source's files.

    `has_pieces` is False for a journal of the last release, whose pieces cannot be checked.
    """

    job: str
    source_files: Mapping[str, FileState]
    has_pieces: bool = True


class Journal:
    """The journal at `path`, which any thread appends to."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()

    def read(self) -> tuple[JournalHead, Tasks] | None:
        """Return the head, and the pieces of every task; None if the journal was not begun.

        Raises
        ------
        ValueError
            If the head is damaged: nobody knows whose pieces these are.
        """
        first, *lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        if not lines:  # no line is complete
            return None
        if FORMER_HEAD.fullmatch(first):
            return JournalHead(first.decode(), {}, has_pieces=False), {}
        try:
            head = _content(first)
            if head["format"] != FORMAT:
                raise ValueError(f"format {shorten(head['format'])}, expected {FORMAT!r}")
            states = parse_states(head["source_files"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path}: damaged, or of another release: {error}; remove it and the "
                f"*{PARTIAL} files of the interrupted run"
            ) from error
        return JournalHead(head["job"], states), dict(_tasks(lines))

    def start(self, head: JournalHead, tasks: Tasks) -> None:
        """Write the head, and the tasks of earlier runs that are still on disk."""
        first = {"format": FORMAT, "job": head.job, "source_files": head.source_files}
        lines = [_line(first), *(_line([key, pieces]) for key, pieces in tasks.items())]
        with atomic_write(self.path, partial_path(self.path)) as partial:
            partial.write_bytes(b"".join(lines))

    def append(self, key: str, pieces: list[Piece]) -> None:
        """Append a task, whose pieces are on disk."""
        with self._lock, naming(self.path), self.path.open("ab") as opened:
            opened.write(_line([key, pieces]))


def _line(content: Any) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> Any:
    """Return what a line says; ValueError if it is torn or damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError(f"line {shorten(line)}")
    return json.loads(text)


def _tasks(lines: Iterable[bytes]) -> Iterator[tuple[str, list[Piece]]]:
    for line in lines:
        with suppress(ValueError):  # it was being written, or is damaged: the task is run again
            key, pieces = _content(line)
            yield key, [Piece(*piece) for piece in pieces]
