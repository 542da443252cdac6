"""Files of a prepared checkpoint: their layout, written chunk by chunk, from any thread, resumable.

Files have temporary names until all of them are complete, and a journal lists the tasks whose
chunks are on disk. The index is written last: a checkpoint is complete once it has its index. Each
shard has a folder and an index, and the manifest, which lists the shards, is written last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from mimo_v2_flash.checkpoint.prepared import MANIFEST, STEM
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES

from .plan import OutputTensor, TensorChunk

__all__ = [
    "PREPARED_INDEX",
    "Layout",
    "Store",
    "TensorOffset",
    "lay_out",
    "sha256_of",
    "shard_folder",
    "write_all",
]

PREPARED_INDEX = f"{STEM}.safetensors.index.json"
JOURNAL = f"{STEM}.journal"
PARTIAL = ".partial"
OTHERS = (".safetensors", ".index.json", ".shards.json")  # ends of checkpoints' files
LARGEST_FILE = 4_990_000_000  # of data: with its header a file stays below 5 GB


class TensorOffset(NamedTuple):
    """A tensor's file, and the offset of its first byte in it."""

    file: str
    begin: int


class Layout(NamedTuple):
    """The header and size of every file, and the TensorOffset of every tensor by shard and name."""

    headers: dict[str, bytes]
    sizes: dict[str, int]
    offsets: dict[tuple[int, str], TensorOffset]

    def weight_map(self, shard: int) -> dict[str, str]:
        """Return the `weight_map` of a shard's index: the file name of each of its tensors."""
        files = sorted((key[1], o.file) for key, o in self.offsets.items() if key[0] == shard)
        return {name: file.rpartition("/")[2] for name, file in files}


class Store:
    """The files of a prepared checkpoint, while they are written.

    Parameters
    ----------
    folder
        The folder to write to.
    outputs
        The tensors of the checkpoint.
    metadata
        The metadata of every file's header.
    largest_file
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    shards
        How many shards there are, each in a folder.
    """

    def __init__(
        self,
        folder: Path,
        outputs: list[OutputTensor],
        metadata: dict[str, str],
        *,
        largest_file: int = LARGEST_FILE,
        shards: int = 1,
    ) -> None:
        self.folder, self._metadata = folder, metadata
        self.folders = [shard_folder(shard, shards) for shard in range(shards)]
        self._layout = lay_out(outputs, metadata, largest_file, shards)
        self._sizes = self._layout.sizes
        headers = sorted(self._layout.headers.items())  # with all tensors, offsets, metadata
        self._job = hashlib.sha256(repr(headers).encode()).hexdigest()
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    @property
    def index(self) -> Path:
        """The path of the file that is written last: the index, or the manifest of all shards."""
        return self.folder / (PREPARED_INDEX if self.folders == [""] else MANIFEST)

    @property
    def is_interrupted(self) -> bool:
        """Whether the folder holds an interrupted run."""
        return (self.folder / JOURNAL).exists() and not self.index.exists()

    def begin(self) -> set[str]:
        """Create the files, or open those of an interrupted run; return the keys of finished tasks.

        Raises
        ------
        OSError
            If there is not enough free space on the disk.
        ValueError
            If the folder holds another checkpoint, or an interrupted run of other weights.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        done = self._done()
        for folder in self.folders:
            (self.folder / folder).mkdir(exist_ok=True)
        existing = [path for file in self._sizes if (path := self._path(file)).exists()]
        missing = self.nbytes - sum(path.stat().st_blocks * 512 for path in existing)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise OSError(f"{self.folder}: {missing:,} more bytes are needed, {free:,} are free")
        if done is None:
            (self.folder / JOURNAL).write_text(f"{self._job}\n")
        for file, size in self._sizes.items():
            if self._path(file) == self.folder / file:  # complete before the interruption
                continue
            self._partial(file).touch()
            with self._partial(file).open("r+b") as opened:
                opened.truncate(size)
                opened.write(self._layout.headers[file])
        return done if done and len(existing) == len(self._sizes) else set()

    def write(self, key: str, chunks: list[TensorChunk]) -> None:
        """Write a task's chunks to disk, then its key to the journal."""
        by_file: dict[str, list[TensorChunk]] = {}
        for chunk in chunks:
            file = self._layout.offsets[chunk.shard, chunk.name].file
            by_file.setdefault(file, []).append(chunk)
        for file, file_chunks in by_file.items():
            path = self._partial(file)
            try:
                with path.open("r+b", buffering=0) as opened:
                    for chunk in file_chunks:
                        begin = self._layout.offsets[chunk.shard, chunk.name].begin + chunk.begin
                        write_all(opened.fileno(), chunk.array.tobytes(), begin)
                    os.fsync(opened.fileno())
            except OSError as error:
                raise OSError(f"{path}: {file_chunks[0].name}: {error}") from error
        with self._lock, (self.folder / JOURNAL).open("a") as journal:
            journal.write(f"{key}\n")

    def finish(self) -> None:
        """Rename the files to their final names and write the index, with a checksum of each."""
        for file in self._sizes:
            if self._partial(file).exists():
                self._partial(file).replace(self.folder / file)
        for shard, folder in enumerate(self.folders):
            self._write_index(shard, Path(folder))
        if self.index.name == MANIFEST:
            manifest = {"metadata": self._metadata, "shards": self.folders}
            self.write_file(MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())
        (self.folder / JOURNAL).unlink()

    def _write_index(self, shard: int, folder: Path) -> None:
        weight_map = self._layout.weight_map(shard)
        files = sorted(set(weight_map.values()))
        facts = {
            "total_size": sum(self._sizes[str(folder / file)] for file in files),
            "sha256": {file: sha256_of(self.folder / folder / file) for file in files},
        }
        index = {"metadata": self._metadata | facts, "weight_map": weight_map}
        self.write_file(str(folder / PREPARED_INDEX), f"{json.dumps(index, indent=1)}\n".encode())

    def write_file(self, file: str, data: bytes) -> None:
        """Write a small file under a temporary name, then give it its final name."""
        with self._partial(file).open("wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        self._partial(file).replace(self.folder / file)

    def check_files(self) -> None:
        """Raise ValueError if a file of the complete checkpoint is missing or has another size."""
        for file, size in self._sizes.items():
            path = self.folder / file
            if not path.is_file() or path.stat().st_size != size:
                raise ValueError(
                    f"{path}: missing or not of {size:,} bytes, though {self.index.name} is there; "
                    f"remove {STEM}* and prepare it again"
                )

    def _done(self) -> set[str] | None:
        journal = self.folder / JOURNAL
        job, *keys = (journal.read_text() if journal.exists() else "").split("\n")
        if not keys:  # no journal, or one without a complete line
            self._refuse_others()
            return None
        if job != self._job:
            raise ValueError(
                f"{self.folder}: an interrupted run of other weights or settings is there; "
                f"repeat that run, or remove {journal.name} and *{PARTIAL}"
            )
        return set(keys[:-1])  # what follows the last line end was being written

    def _refuse_others(self) -> None:
        """Raise ValueError if the folder holds files of another checkpoint."""
        for path in sorted(self.folder.iterdir()):
            if path.name == "config.json" or path.name.endswith(OTHERS):
                raise ValueError(
                    f"{self.folder} holds {path.name} of another checkpoint; choose another folder"
                )

    def _path(self, file: str) -> Path:
        """Return the current path of a file: its final name, or its temporary one."""
        return self.folder / file if (self.folder / file).exists() else self._partial(file)

    def _partial(self, file: str) -> Path:
        return self.folder / f"{file}{PARTIAL}"


def shard_folder(shard: int, shards: int) -> str:
    """Return the name of a shard's folder; empty if there is only one shard."""
    return f"rank-{shard:05}-of-{shards:05}" if shards > 1 else ""


def lay_out(
    outputs: list[OutputTensor], metadata: dict[str, str], largest: int, shards: int = 1
) -> Layout:
    """Return the layout of `outputs` in `mimo_weights.safetensors`, or in several numbered files.

    Parameters
    ----------
    outputs
        The tensors, in the order of the files.
    metadata
        The metadata of every file's header; the shard's number is added if there are several.
    largest
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    shards
        How many shards there are, each in a folder.
    """
    layout = Layout({}, {}, {})
    for shard in range(shards):
        folder = shard_folder(shard, shards)
        shard_metadata = metadata | ({"shard": str(shard)} if shards > 1 else {})
        groups = list(_grouped([o for o in outputs if o.shard == shard], largest))
        for number, group in enumerate(groups, 1):
            split = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
            file = f"{folder}/{STEM}{split}.safetensors".removeprefix("/")
            entries, size = _entries(group)
            header = _header({"__metadata__": shard_metadata, **entries})
            layout.headers[file], layout.sizes[file] = header, len(header) + size
            for name, entry in entries.items():
                begin = len(header) + entry["data_offsets"][0]
                layout.offsets[shard, name] = TensorOffset(file, begin)
    return layout


def _entries(group: list[OutputTensor]) -> tuple[dict[str, Any], int]:
    """Return the header entries of a file's tensors, and how many bytes their data has."""
    entries, end = {}, 0
    # Widest elements first, so that each tensor is aligned to its element size.
    for output in sorted(group, key=lambda output: -DTYPES[output.dtype].itemsize):
        begin, end = end, end + _nbytes(output)
        entries[output.name] = {
            "dtype": output.dtype,
            "shape": output.shape,
            "data_offsets": (begin, end),
        }
    return entries, end


def _grouped(outputs: list[OutputTensor], largest: int) -> Iterator[list[OutputTensor]]:
    group: list[OutputTensor] = []
    size = 0
    for output in outputs:
        if group and size + _nbytes(output) > largest:
            yield group
            group, size = [], 0
        group.append(output)
        size += _nbytes(output)
    yield group


def _header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _nbytes(output: OutputTensor) -> int:
    return prod(output.shape) * DTYPES[output.dtype].itemsize


def write_all(descriptor: int, data: bytes, begin: int) -> None:
    """Write all of `data` at byte `begin` of a file; one `pwrite` may write only a part."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, begin)
        view, begin = view[count:], begin + count


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, a megabyte in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
