"""Safetensors files that are filled piece by piece, from any thread, and survive an interruption.

Files have temporary names until all of them are complete, and a journal says which pieces are on
disk. The index is written last: a checkpoint is there once its index is.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from threading import Lock

from .layout import STEM, lay_out
from .pieces import Output, Part

__all__ = ["INDEX", "Store"]

INDEX = f"{STEM}.safetensors.index.json"
JOURNAL = f"{STEM}.journal"
PARTIAL = ".partial"
LARGEST_FILE = 5_000_000_000


class Store:
    """A prepared checkpoint in the making.

    Parameters
    ----------
    folder
        Where it will be.
    outputs
        Its tensors.
    metadata
        Of every file's header.
    largest_file
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    """

    def __init__(
        self,
        folder: Path,
        outputs: list[Output],
        metadata: dict[str, str],
        *,
        largest_file: int = LARGEST_FILE,
    ) -> None:
        self.folder, self._metadata = folder, metadata
        self._layout = lay_out(outputs, metadata, largest_file)
        self._sizes = self._layout.sizes
        self._job = hashlib.sha256(repr((outputs, sorted(metadata.items()))).encode()).hexdigest()
        self._open: dict[str, int] = {}
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    def begin(self) -> set[str]:
        """Make the files, or find those of an interrupted run; return the keys of pieces done.

        Raises
        ------
        OSError
            If there is not enough room on the disk.
        ValueError
            If an interrupted run of other weights is there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self._done()
        partials = [path for path in map(self._partial, self._sizes) if path.exists()]
        missing = self.nbytes - sum(path.stat().st_blocks * 512 for path in partials)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise OSError(f"{self.folder}: {missing:,} more bytes are needed, {free:,} are free")
        if done is None:
            (self.folder / JOURNAL).write_text(f"{self._job}\n")
        for file, size in self._sizes.items():
            if (self.folder / file).exists():  # complete, and renamed before an interruption
                continue
            descriptor = os.open(self._partial(file), os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(descriptor, size)
            os.pwrite(descriptor, self._layout.headers[file], 0)
            self._open[file] = descriptor
        return done or set()

    def write(self, key: str, parts: list[Part]) -> None:
        """Put a piece's parts on disk, then note in the journal that it is there."""
        descriptors = set()
        for part in parts:
            slot = self._layout.slots[part.name]
            _write_all(self._open[slot.file], part.array.tobytes(), slot.begin + part.begin)
            descriptors.add(self._open[slot.file])
        for descriptor in descriptors:
            os.fsync(descriptor)
        with self._lock, (self.folder / JOURNAL).open("a") as journal:
            journal.write(f"{key}\n")

    def finish(self) -> None:
        """Give the files their names and write the index, with a checksum for each."""
        self.close()
        for file in self._sizes:
            if self._partial(file).exists():
                self._partial(file).replace(self.folder / file)
        index = {
            "metadata": self._metadata
            | {"total_size": sum(self._sizes.values())}
            | {"sha256": {file: _sha256(self.folder / file) for file in self._sizes}},
            "weight_map": {name: slot.file for name, slot in sorted(self._layout.slots.items())},
        }
        partial = self._partial(INDEX)
        partial.write_text(json.dumps(index, indent=1) + "\n")
        partial.replace(self.folder / INDEX)
        (self.folder / JOURNAL).unlink()

    def close(self) -> None:
        """Close the files; what is in the journal stays done."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _done(self) -> set[str] | None:
        journal = self.folder / JOURNAL
        if not journal.exists():
            return None
        job, *keys = journal.read_text().split("\n")
        if job != self._job:
            raise ValueError(
                f"{self.folder}: an interrupted run of other weights or settings is there; "
                f"repeat it as it was, or remove {journal.name} and *{PARTIAL}"
            )
        return set(keys[:-1])  # what follows the last line end was being written

    def _partial(self, file: str) -> Path:
        return self.folder / f"{file}{PARTIAL}"


def _write_all(descriptor: int, data: bytes, begin: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, begin)
        view, begin = view[count:], begin + count


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while portion := file.read(1 << 24):
            digest.update(portion)
    return digest.hexdigest()
