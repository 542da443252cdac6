"""Verification of a finished prepared checkpoint: its bytes, and whether they are its source's.

Every file is compared with its SHA-256. A source at hand is compared by the states of its files;
where one has changed, or none are recorded, every tensor is converted again and compared.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.prepared import (
    MANIFEST,
    PREPARED_INDEX,
    PreparedMetadata,
    read_prepared_index,
)
from mimo_v2_flash.checkpoint.source import Checkpoint, open_checkpoint
from mimo_v2_flash.checkpoint.source_files import FileState
from mimo_v2_flash.io_threads import parallel_map

from .job import ConversionJob
from .plan import ConversionTask, OutputTensor, TensorChunk

__all__ = ["PreparedFolder", "compare_tensors", "open_prepared"]

BLOCK_BYTES = 1 << 22
Advance = Callable[[int], None]


class PreparedFolder(NamedTuple):
    """A finished prepared checkpoint.

    Attributes
    ----------
    shards
        The folder of each shard; the checkpoint's if there is only one.
    metadata
        The metadata of its index, or of its manifest.
    source_files
        The states of the source's files; None if the last release prepared it.
    checksums
        The SHA-256 of every file, None for a weight file without one.
    """

    shards: list[Path]
    metadata: PreparedMetadata
    source_files: Mapping[str, FileState] | None
    checksums: Mapping[Path, str | None]

    @property
    def nbytes(self) -> int:
        """Bytes of the files that have checksums, as far as they are there."""
        return sum(path.stat().st_size for path in self.checksums if path.is_file())

    def damaged_files(self, advance: Advance) -> list[str]:
        """Return a line for each file that is missing or differs from its checksum."""
        return [
            f"{path}: {damage}"
            for path, checksum in self.checksums.items()
            if checksum and (damage := _damage(path, checksum, advance))
        ]


def open_prepared(folder: Path) -> PreparedFolder:
    """Return the finished prepared checkpoint in `folder`; no weight is read.

    Raises
    ------
    ValueError
        If there is none, or an index is damaged; the file is named.
    """
    has_shards = (folder / MANIFEST).is_file()
    names = read_prepared_index(folder / MANIFEST).shards if has_shards else [""]
    shards = [folder / name for name in names]
    paths = [*(shard / PREPARED_INDEX for shard in shards), *[folder / MANIFEST] * has_shards]
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{missing[0]}: no such file; no finished preparation is in {folder}")
    indexes = {path: read_prepared_index(path) for path in paths}
    checksums = {
        path.parent / file: checksum
        for path, index in indexes.items()
        for file, checksum in index.checksums.items()
    }
    last = indexes[paths[-1]]
    return PreparedFolder(shards, last.prepared, last.source_files, checksums)


def compare_tensors(
    prepared: PreparedFolder, job: ConversionJob, *, workers: int, advance: Advance
) -> list[str]:
    """Return a line for each tensor that is not what `job` makes of its source.

    `advance` is called with the bytes of the source that each task has read.

    Parameters
    ----------
    prepared : PreparedFolder
        The finished folder.
    job : ConversionJob
        What makes it of its source.
    workers : int
        Number of threads.
    advance : callable
        Called with bytes of the source as they are read.
    """
    checkpoints = [open_checkpoint(folder) for folder in prepared.shards]
    lines = {_line(checkpoints, output): None for output in job.plan.outputs}
    lines |= dict.fromkeys(_surplus(checkpoints, job))
    work = partial(_compare_task, job, checkpoints, advance)
    for of_task in parallel_map(work, job.plan.tasks, workers):
        lines |= dict.fromkeys(of_task)
    return [line for line in lines if line]


def _compare_task(
    job: ConversionJob, checkpoints: list[Checkpoint], advance: Advance, task: ConversionTask
) -> list[str]:
    chunks = job.convert(task)
    advance(task.nbytes)
    return [
        f"{checkpoints[c.shard].file_of(c.name)}: {c.name} differs from the source"
        for c in chunks
        if c.name in checkpoints[c.shard] and not _is_equal(checkpoints[c.shard][c.name], c)
    ]


def _is_equal(array: np.ndarray, chunk: TensorChunk) -> bool:
    data = array.reshape(-1).view(np.uint8)[chunk.begin : chunk.begin + chunk.array.nbytes]
    return data.tobytes() == chunk.array.tobytes()


def _line(checkpoints: list[Checkpoint], output: OutputTensor) -> str:
    """Return what is wrong with a tensor's place, dtype or shape; an empty string if nothing is."""
    checkpoint = checkpoints[output.shard]
    if output.name not in checkpoint:
        return f"{output.name} of the source is missing"
    info = checkpoint.info(output.name)
    if (info.dtype, info.shape) == (output.dtype, output.shape):
        return ""
    return (
        f"{info.file}: {output.name} is {info.dtype} {info.shape}, the source's is "
        f"{output.dtype} {output.shape}"
    )


def _surplus(checkpoints: list[Checkpoint], job: ConversionJob) -> Iterator[str]:
    expected = {(output.shard, output.name) for output in job.plan.outputs}
    for shard, checkpoint in enumerate(checkpoints):
        for name in checkpoint:
            if (shard, name) not in expected:
                yield f"{checkpoint.file_of(name)}: {name} is not in the source"


def _damage(path: Path, checksum: str, advance: Advance) -> str:
    """Return what is wrong with a file; an empty string if nothing is."""
    if not path.is_file():
        return "is missing"
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            advance(len(block))
    return "" if digest.hexdigest() == checksum else "its bytes are not those of its checksum"
