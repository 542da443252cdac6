"""The rate at which a disk gives large parts of files, as an expert store reads them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mimo_v2_flash.expert_store.file_reader import FileReader, new_buffer
from mimo_v2_flash.expert_store.record_layout import PAGE, RecordLayout, Segment

__all__ = ["ReadRate", "measure_disk"]

RECORD = 64 << 20  # bytes of one call, as several experts are
ENOUGH = 2 << 30  # bytes in all
SECONDS = 5.0  # after which no further record is read


class ReadRate(NamedTuple):
    """Bytes per second of so many bytes, past the page cache or through it."""

    bytes_per_second: float
    measured_bytes: int
    is_direct: bool


def measure_disk(files: Sequence[Path], *, most: int = ENOUGH) -> ReadRate:
    """Return the rate at which files are read in order, at most `most` bytes of them.

    Raises
    ------
    ExpertReadError
        If a file cannot be read.
    ValueError
        If all files are empty.
    """
    sizes = {str(file): file.stat().st_size for file in files}
    reader, total, seconds = FileReader(sizes), 0, 0.0
    buffer = new_buffer(RECORD)
    for layout in _records(sizes):
        start = time.perf_counter()
        reader.read([(layout, buffer)])
        seconds += time.perf_counter() - start
        total += layout.nbytes
        if total >= most or seconds > SECONDS:
            break
    if not total:
        raise ValueError(f"{', '.join(sizes)}: no bytes to read")
    return ReadRate(total / seconds, total, reader.is_direct)


def _records(sizes: dict[str, int]) -> Iterator[RecordLayout]:
    """Yield the whole pages of files, in order, as records of `RECORD` bytes at most."""
    for file, size in sizes.items():
        whole = size // PAGE * PAGE
        for begin in range(0, whole, RECORD):
            end = min(begin + RECORD, whole)
            yield RecordLayout((Segment(file, begin, end, end, 0),), (), end - begin)
