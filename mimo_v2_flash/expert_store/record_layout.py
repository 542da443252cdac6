"""Where the arrays of an expert lie in files, and in the one buffer that holds them in memory.

The arrays of a loaded model are views of mapped files, so that any format's place is known without
knowing the format. A buffer has whole pages of the files, at whose beginnings direct reads begin:
an array has the same alignment in it as in the map.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

__all__ = ["PAGE", "FileRegion", "RecordLayout", "Segment", "find_region", "lay_out_record"]

PAGE = 4096  # what direct reads are aligned to, whatever a disk's blocks are


class FileRegion(NamedTuple):
    """An array in a file: the file and its size when it was mapped, and the place of the array."""

    file: str
    file_size: int
    begin: int
    dtype: Any
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte behind the array."""
        return self.begin + prod(self.shape) * np.dtype(self.dtype).itemsize


class Segment(NamedTuple):
    """Whole pages of a file that are read together, and their offset in the buffer.

    The bytes are from `begin` to `end`; those from `needed` on may be behind the file's end.
    """

    file: str
    begin: int
    end: int
    needed: int
    offset: int


class RecordLayout(NamedTuple):
    """The layout of a record: its segments, the offset of each array in the buffer, its bytes."""

    segments: tuple[Segment, ...]
    places: tuple[tuple[int, FileRegion], ...]
    nbytes: int

    def arrays(self, buffer: np.ndarray) -> list[np.ndarray]:
        """Return the arrays that a buffer, of bytes, holds."""
        return [
            buffer[offset : offset + region.end - region.begin]
            .view(region.dtype)
            .reshape(region.shape)
            for offset, region in self.places
        ]


def find_region(array: np.ndarray) -> FileRegion | None:
    """Return where a mapped array lies in its file; None if in memory, or not in one piece."""
    root: Any = array
    while isinstance(root, np.ndarray) and not _is_map(root):
        root = root.base
    if not isinstance(root, np.memmap) or not array.flags.c_contiguous:
        return None
    begin = root.offset + array.ctypes.data - root.ctypes.data
    return FileRegion(
        str(root.filename), root.offset + root.nbytes, begin, array.dtype, array.shape
    )


def _is_map(array: np.ndarray) -> bool:
    """Return whether an array is the one that owns its map, and no view of it."""
    is_map = isinstance(array, np.memmap) and array.offset is not None  # None: of a copy
    return is_map and not isinstance(array.base, np.ndarray)


def lay_out_record(regions: Iterable[FileRegion]) -> RecordLayout:
    """Return the layout of a record of arrays; those whose pages touch are read together."""
    regions = list(regions)
    segments, nbytes = [], 0
    for segment in _segments(regions):
        segments.append(segment._replace(offset=nbytes))
        nbytes += segment.end - segment.begin
    places = []
    for region in regions:
        segment = next(s for s in segments if s.file == region.file and _contains(s, region))
        places.append((segment.offset + region.begin - segment.begin, region))
    return RecordLayout(tuple(segments), tuple(places), nbytes)


def _contains(segment: Segment, region: FileRegion) -> bool:
    return segment.begin <= region.begin and region.end <= segment.needed


def _segments(regions: list[FileRegion]) -> Iterator[Segment]:
    """Yield the segments, in the order of the files; offsets are left open."""
    ordered = sorted(regions, key=lambda region: (region.file, region.begin))
    edges = [index for index, pair in enumerate(pairwise(ordered), 1) if not _touch(*pair)]
    for first, last in pairwise([0, *edges, len(ordered)]):
        part = ordered[first:last]
        needed = max(region.end for region in part)
        yield Segment(part[0].file, part[0].begin // PAGE * PAGE, _up(needed), needed, 0)


def _touch(region: FileRegion, following: FileRegion) -> bool:
    """Return whether the pages of two arrays, in the order of files, are neighbours."""
    is_same = region.file == following.file
    return is_same and following.begin // PAGE * PAGE <= _up(region.end)


def _up(byte: int) -> int:
    return -(-byte // PAGE) * PAGE
