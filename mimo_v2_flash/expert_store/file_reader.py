"""Large reads of files by several threads into page-aligned buffers, past the page cache.

A direct read takes no memory beside its buffer, and one of a file that was cut short is an error,
where a mapped page would end the process. File systems without direct reads are read as usual.

Source: open(2) and readv(2) of Linux: O_DIRECT, and EINVAL where it is not supported.
"""

import mmap
import os
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np

from .record_layout import PAGE, RecordLayout, Segment

__all__ = ["ExpertReadError", "FileReader", "new_buffer"]

READERS = 8  # threads: the reads that a disk has at a time
PIECE = 4 << 20  # bytes of a read
MIN_SHARED_BYTES = 1 << 18  # below, a thread costs more than it brings
DIRECT = getattr(os, "O_DIRECT", 0)
HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)


class ExpertReadError(OSError):
    """Error of a read of experts: the file is gone, cut short, or cannot be read."""


class _Piece(NamedTuple):
    """A read: bytes of a file from `begin` on that fill `target`; `needed` of them must exist."""

    file: str
    begin: int
    needed: int
    target: np.ndarray


def new_buffer(nbytes: int) -> np.ndarray:
    """Return uninitialized bytes that begin with a page."""
    memory = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if HUGE_PAGES is not None and nbytes >= PIECE:
        with suppress(OSError):  # of a kernel without them
            memory.madvise(HUGE_PAGES)
    return np.frombuffer(memory, np.uint8, nbytes)


class FileReader:
    """A reader of records from files that it keeps open, so that they may be moved or deleted.

    Parameters
    ----------
    sizes
        The size that each file had when it was mapped, by its path.

    Attributes
    ----------
    is_direct
        Whether reads bypass the page cache.

    Raises
    ------
    ExpertReadError
        If a file cannot be opened, or has another size.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self._descriptors: dict[str, int] = {}
        weakref.finalize(self, _close, self._descriptors)
        self.is_direct = bool(DIRECT)
        try:
            self._open_all(sizes, DIRECT)
        except OSError:
            self._open_all(sizes, 0)

    def _open_all(self, sizes: dict[str, int], flag: int) -> None:
        _close(self._descriptors)
        self.is_direct = bool(flag)
        for file, size in sizes.items():
            try:
                self._descriptors[file] = os.open(file, os.O_RDONLY | flag)
                actual = os.fstat(self._descriptors[file]).st_size
                if flag:  # some file systems take it when opening, and refuse to read
                    os.preadv(self._descriptors[file], [new_buffer(PAGE).data], 0)
            except OSError as error:
                raise ExpertReadError(f"{file}: {error.strerror}") from error
            if actual != size:
                raise ExpertReadError(f"{file}: has {actual:,} bytes, not {size:,} as when loaded")

    def read(self, records: Iterable[tuple[RecordLayout, np.ndarray]]) -> None:
        """Fill the buffer of each record, all of them at a time.

        Raises
        ------
        ExpertReadError
            If a read fails or a file is too short; the message names it. No read is left running.
        """
        pieces = [piece for layout, buffer in records for piece in _pieces(layout, buffer)]
        if sum(piece.target.size for piece in pieces) < MIN_SHARED_BYTES:
            for piece in pieces:
                self._read_piece(piece)
            return
        with ThreadPoolExecutor(min(READERS, len(pieces))) as pool:
            for _ in pool.map(self._read_piece, pieces):
                pass

    def _read_piece(self, piece: _Piece) -> None:
        try:
            filled = self._fill(piece)
        except OSError as error:
            raise ExpertReadError(f"{piece.file}: {error.strerror}") from error
        if filled < piece.needed:
            end = piece.begin + piece.needed
            raise ExpertReadError(
                f"{piece.file}: ends at byte {piece.begin + filled:,}, expected {end:,}: truncated"
            )

    def _fill(self, piece: _Piece) -> int:
        """Return how many bytes of a piece could be read; a direct read goes on at whole pages."""
        filled, descriptor, target = 0, self._descriptors[piece.file], piece.target.data
        while filled < piece.needed and not (self.is_direct and filled % PAGE):
            part = os.preadv(descriptor, [target[filled:]], piece.begin + filled)
            if not part:
                break
            filled += part
        return filled


def _pieces(layout: RecordLayout, buffer: np.ndarray) -> Iterable[_Piece]:
    for segment in layout.segments:
        yield from map(partial(_piece, segment, buffer), range(segment.begin, segment.end, PIECE))


def _piece(segment: Segment, buffer: np.ndarray, begin: int) -> _Piece:
    end = min(begin + PIECE, segment.end)
    start = segment.offset + begin - segment.begin
    target = buffer[start : start + end - begin]
    return _Piece(segment.file, begin, min(end, segment.needed) - begin, target)


def _close(descriptors: dict[str, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
