"""Files of a prepared checkpoint: written chunk by chunk, by one process, from where it was cut.

Files have temporary names until all of them are complete, and a journal lists the tasks whose
pieces are on disk, with checksums. The index is written last: a checkpoint is complete once it has
its index. Each shard has a folder and an index, and the manifest, which lists the shards, is
written last.
"""

import json
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mimo_v2_flash.atomic_file import (
    PARTIAL,
    atomic_write,
    naming,
    partial_path,
    sync_folder,
)
from mimo_v2_flash.checkpoint.prepared import MANIFEST, PREPARED_INDEX, SOURCE_DIGEST, STEM
from mimo_v2_flash.checkpoint.safetensors_file import FileLayout, TensorInfo, lay_out
from mimo_v2_flash.checkpoint.source_files import FileState, file_changes
from mimo_v2_flash.io_threads import parallel_map

from .journal import Journal, JournalHead, Piece
from .plan import OutputTensor, TensorChunk

__all__ = ["JOURNAL", "LOCK", "Store"]

LARGEST_FILE = 4_990_000_000  # bytes of data: with its header a file stays below 5 GB
JOURNAL, LOCK = f"{STEM}.journal", f"{STEM}.lock"
THREADS = 4  # that read the files when all are written
OTHERS = (".safetensors", ".index.json", ".shards.json")  # ends of checkpoints' files


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
    source_files
        The states of the source's files; empty if the metadata name its commit.
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
        source_files: Mapping[str, FileState] | None = None,
        largest_file: int = LARGEST_FILE,
        shards: int = 1,
    ) -> None:
        self.folder, self._metadata = folder, metadata
        digits = f"of-{shards:05}"
        self.folders = [f"rank-{n:05}-{digits}" for n in range(shards)] if shards > 1 else [""]
        self.source_files = source_files or {}
        layouts = _lay_out(self.folders, outputs, metadata, largest_file)
        self._files = {file.name: file for files in layouts for file in files}
        self._tensors = [dict(i for f in files for i in f.tensors.items()) for files in layouts]
        # Of the last release, whose headers had no source_digest: all tensors, offsets, settings.
        settings = {name: value for name, value in metadata.items() if name != SOURCE_DIGEST}
        former = _lay_out(self.folders, outputs, settings, largest_file)
        self._former = {file.name: file for files in former for file in files}
        headers = sorted((file.name, file.header) for file in self._former.values())
        self._job = sha256(repr(headers).encode()).hexdigest()
        self._journal = Journal(folder / JOURNAL)
        self._pieces: dict[str, list[Piece]] = {}
        self._small_files: dict[str, bytes] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files.values())

    @property
    def index(self) -> Path:
        """The path of the file that is written last: the index, or the manifest of all shards."""
        return self.folder / (PREPARED_INDEX if self.folders == [""] else MANIFEST)

    @property
    def is_interrupted(self) -> bool:
        """Whether the folder holds an interrupted run."""
        return self._journal.path.exists() and not self.index.exists()

    @property
    def is_former(self) -> bool:
        """Whether the interrupted run is the last release's, whose pieces cannot be checked."""
        content = self._journal.read()
        return content is not None and content[0].job == self._job and not content[0].has_pieces

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, which is created, for this process; a killed process holds none.

        Raises
        ------
        OSError
            If another process writes to the folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / LOCK
        try:
            with FileLock(file, timeout=0):
                try:
                    yield
                finally:
                    with suppress(PermissionError):  # Windows removes no open file
                        file.unlink(missing_ok=True)
        except Timeout as error:
            raise OSError(f"{self.folder}: another process is writing to this folder") from error

    def check(self) -> dict[str, list[Piece]]:
        """Return the pieces that the journal lists, having checked that the run may begin.

        Raises
        ------
        OSError, ValueError
            As `begin`.
        """
        recorded = self._recorded()
        self._check_free_space()
        return recorded

    def begin(self, keys: Collection[str]) -> set[str]:
        """Create the files, or open those of an interrupted run; return which of `keys` are done.

        The bytes of every finished task are read: if one has changed, the task is not done.

        Raises
        ------
        OSError
            If there is not enough free space on the disk.
        ValueError
            If the folder holds another checkpoint, or an interrupted run of other weights or of
            another source.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        recorded = self.check()
        for folder in self.folders:
            (self.folder / folder).mkdir(exist_ok=True)
        for file in self._files.values():
            self._open_partial(file)
        done = {key: recorded[key] for key in keys if key in recorded and self._has(recorded[key])}
        self._journal.start(JournalHead(self._job, self.source_files), done)
        self._pieces = {file: [] for file in self._files}
        for pieces in done.values():
            self._note(pieces)
        return set(done)

    def write(self, key: str, chunks: list[TensorChunk]) -> None:
        """Write a task's chunks to disk, then its key and their checksums to the journal."""
        by_file: dict[str, list[TensorChunk]] = {}
        for chunk in chunks:
            by_file.setdefault(self._tensors[chunk.shard][chunk.name].file, []).append(chunk)
        pieces = []
        for file, file_chunks in by_file.items():
            path = self._partial(file)
            try:
                with path.open("r+b") as opened:
                    for chunk in file_chunks:
                        begin = self._tensors[chunk.shard][chunk.name].begin + chunk.begin
                        data = chunk.array.tobytes()
                        opened.seek(begin)
                        opened.write(data)
                        pieces.append(Piece(file, begin, len(data), zlib.crc32(data)))
                    opened.flush()
                    os.fsync(opened.fileno())
            except OSError as error:
                raise OSError(f"{path}: {file_chunks[0].name}: {error}") from error
        self._journal.append(key, pieces)
        self._note(pieces)

    def write_file(self, file: str, data: bytes) -> None:
        """Write a small file, whose checksum the index will have."""
        with atomic_write(self.folder / file, self._partial(file)) as partial:
            partial.write_bytes(data)
        self._small_files[file] = data

    def finish(self) -> None:
        """Give the files their names, and write the index with a SHA-256 of each.

        Raises
        ------
        ValueError
            If a file does not hold what was written to it; it is named. --resume mends it.
        """
        files = list(self._files)
        checksums = dict(zip(files, parallel_map(self._checksum, files, THREADS), strict=True))
        checksums |= {file: sha256(data).hexdigest() for file, data in self._small_files.items()}
        for file in files:
            self._partial(file).replace(self.folder / file)
        for folder in self.folders:
            sync_folder(self.folder / folder)
        for shard, folder in enumerate(self.folders):
            self._write_index(shard, folder, checksums)
        if self.index.name == MANIFEST:
            metadata = self._metadata | self._facts("", checksums)
            self._write_json(MANIFEST, {"metadata": metadata, "shards": self.folders})
        self._journal.path.unlink()

    def check_files(self, *, former: bool = False) -> None:
        """Raise ValueError if a file of the complete checkpoint is missing or has another size.

        `former` says that the last release wrote it.
        """
        for file in (self._former if former else self._files).values():
            path = self.folder / file.name
            if not path.is_file() or path.stat().st_size != file.size:
                raise ValueError(
                    f"{path}: missing or not of {file.size:,} bytes, though {self.index.name} is "
                    f"there; remove {STEM}* and prepare it again"
                )

    def _recorded(self) -> dict[str, list[Piece]]:
        """Return the pieces of the tasks in the journal, which must be of this job and source."""
        content = self._journal.read()
        if content is None:
            self._refuse_others()
            return {}
        head, tasks = content
        if head.job != self._job:
            raise ValueError(
                f"{self.folder}: an interrupted run of other weights or settings is there; "
                f"repeat that run, or remove {JOURNAL} and *{PARTIAL}"
            )
        if head.has_pieces and (changes := file_changes(head.source_files, self.source_files)):
            raise ValueError(
                f"{self.folder}: this is another source than the interrupted run's: {changes[0]}; "
                f"remove {JOURNAL} and *{PARTIAL} to begin again"
            )
        return tasks

    def _refuse_others(self) -> None:
        """Raise ValueError if the folder holds files of another checkpoint."""
        for path in sorted(self.folder.iterdir()):
            if path.name == "config.json" or path.name.endswith(OTHERS):
                raise ValueError(
                    f"{self.folder} holds {path.name} of another checkpoint; choose another folder"
                )

    def _check_free_space(self) -> None:
        paths = [path for file in self._files for path in self._paths(file) if path.exists()]
        missing = self.nbytes - sum(path.stat().st_blocks * 512 for path in paths)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise OSError(f"{self.folder}: {missing:,} more bytes are needed, {free:,} are free")

    def _open_partial(self, file: FileLayout) -> None:
        """Give a file its temporary name, size and header; one of another size begins anew."""
        final, partial = self._paths(file.name)
        if final.exists():  # the run was interrupted while files got their names
            final.replace(partial)
        if partial.exists() and partial.stat().st_size != file.size:
            partial.unlink()
        partial.touch()
        with naming(partial), partial.open("r+b") as opened:
            opened.truncate(file.size)
            opened.write(file.header)

    def _has(self, pieces: list[Piece]) -> bool:
        return all(piece.is_intact(self._partial(piece.file)) for piece in pieces)

    def _note(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._pieces[piece.file].append(piece)

    def _checksum(self, file: str) -> str:
        """Return the SHA-256 of a file whose every byte is one that a task has written."""
        path, header = self._partial(file), self._files[file].header
        digest, end = sha256(header), len(header)
        with path.open("rb") as opened:
            intact = opened.read(len(header)) == header
            for piece in sorted(self._pieces[file]):
                data = opened.read(piece.size)
                intact = intact and piece.begin == end and zlib.crc32(data) == piece.crc
                digest.update(data)
                end += piece.size
            intact = intact and not opened.read(1)  # which no task has written
        if not intact:
            raise ValueError(
                f"{path}: its bytes are not those that were written; --resume mends it"
            )
        return digest.hexdigest()

    def _write_index(self, shard: int, folder: str, checksums: Mapping[str, str]) -> None:
        tensors = self._tensors[shard]
        weight_map = {name: Path(tensors[name].file).name for name in sorted(tensors)}
        total = sum(self._files[file].size for file in {info.file for info in tensors.values()})
        facts = {"total_size": total} | self._facts(folder, checksums)
        index = {"metadata": self._metadata | facts, "weight_map": weight_map}
        self._write_json(str(Path(folder) / PREPARED_INDEX), index)

    def _facts(self, folder: str, checksums: Mapping[str, str]) -> dict[str, Any]:
        """Return the checksums of the files in a folder, and in the main one the source's state."""
        paths = {Path(file): digest for file, digest in checksums.items()}
        files = {path.name: paths[path] for path in paths if path.parent == Path(folder)}
        return {"sha256": files} | ({} if folder else {"source_files": self.source_files})

    def _write_json(self, file: str, content: Any) -> None:
        self.write_file(file, f"{json.dumps(content, indent=1)}\n".encode())

    def _paths(self, file: str) -> tuple[Path, Path]:
        """Return the final and the temporary path of a file."""
        return self.folder / file, self._partial(file)

    def _partial(self, file: str) -> Path:
        return partial_path(self.folder / file)


def _lay_out(
    folders: list[str], outputs: list[OutputTensor], metadata: dict[str, str], largest: int
) -> list[list[FileLayout]]:
    """Return the layouts of every shard's files, whose names begin with its folder."""
    tensors: list[dict[str, TensorInfo]] = [{} for _ in folders]
    for name, dtype, shape, shard in outputs:
        tensors[shard][name] = TensorInfo.new(dtype, shape)
    layouts = []
    for shard, folder in enumerate(folders):
        stem = f"{folder}/{STEM}".removeprefix("/")
        numbered = metadata | ({"shard": str(shard)} if folder else {})
        layouts.append(list(lay_out(stem, tensors[shard], numbered, largest)))
    return layouts
