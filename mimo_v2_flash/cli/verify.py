"""Report of `mimo prepare --verify`: a finished folder, its checksums, and its source."""

import time
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.hub import HubSource
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.source import FolderSource, Source
from mimo_v2_flash.checkpoint.source_files import file_changes
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.job import plan_conversion_job
from mimo_v2_flash.convert.verify import PreparedFolder, compare_tensors, open_prepared
from mimo_v2_flash.json_object import shorten

from .console import amount, console, progress_of_bytes
from .result import Result

__all__ = ["verify"]

WORKERS = 4


def verify(folder: Path, source: Source | None) -> Result:
    """Compare a finished folder with its checksums and its source, and report what differs.

    Parameters
    ----------
    folder
        The prepared checkpoint.
    source
        Its source; None for the folder that its metadata name, if it is there.
    """
    start, prepared = time.perf_counter(), open_prepared(folder)
    with progress_of_bytes(f"{folder}: checksums", total=prepared.nbytes) as advance:
        lines = prepared.damaged_files(advance)
    recorded = [path for path, checksum in prepared.checksums.items() if checksum]
    unrecorded = sorted(str(path) for path in prepared.checksums.keys() - set(recorded))
    _print(f"checksums of {len(recorded)} files, {amount(prepared.nbytes)}: {len(lines)} differ")
    for path in unrecorded:
        _print(f"{path}: no checksum is recorded, so it was not compared with one")
    state, compared = "not compared", 0
    if not lines:
        state, compared, lines = _compare_source(folder, prepared, source)
    _print(f"source {prepared.metadata.source} {prepared.metadata.revision}".strip() + f": {state}")
    for line in lines:
        _print(line)
    numbers: dict[str, Any] = {
        "folder": folder,
        "source": prepared.metadata.source,
        "revision": prepared.metadata.revision,
        "files": len(recorded),
        "bytes": prepared.nbytes,
        "files_without_checksum": unrecorded,
        "source_state": state,
        "compared_tensors": compared,
        "differences": lines,
        "seconds": time.perf_counter() - start,
    }
    return Result(numbers, 1 if lines else 0)


def _compare_source(
    folder: Path, prepared: PreparedFolder, source: Source | None
) -> tuple[str, int, list[str]]:
    """Return the state of the source in words, how many tensors were compared, and what differs."""
    metadata = prepared.metadata
    if source is None and metadata.revision:
        return "not at hand", 0, []
    try:
        source = source or FolderSource(Path(metadata.source))
    except (OSError, ValueError) as error:
        return f"not at hand: {error}", 0, []
    if isinstance(source, HubSource):
        if (source.name, source.revision) == (metadata.source, metadata.revision):
            return "unchanged, the same commit", 0, []
        return "changed", 0, [f"{folder}: not of {source.name} at commit {source.revision}"]
    states, recorded = source.file_states(), prepared.source_files
    changes = ["no states of its files are recorded"]
    if recorded is not None and not (changes := file_changes(recorded, states)):
        return f"unchanged, by size, time, header and samples of {len(states)} files", 0, []
    compared, lines = _compare_tensors(folder, prepared, source)
    return f"{'; '.join(changes)}; {compared} tensors were compared with it", compared, lines


def _compare_tensors(
    folder: Path, prepared: PreparedFolder, source: Source
) -> tuple[int, list[str]]:
    metadata = prepared.metadata
    try:
        config = MiMoConfig.from_pretrained(source.name)
        job = plan_conversion_job(
            source,
            config,
            folder,
            Encoding(metadata.dtype, metadata.target, IsqRequest.of_text(metadata.isq)),
            metadata.experts,
            num_layers=int(metadata.config["num_hidden_layers"]),
            expert_parallel=metadata.expert_parallel,
            tensor_parallel=metadata.tensor_parallel,
            mtp=metadata.mtp_heads > 0,
        )
    except (OSError, ValueError) as error:
        return 0, [f"the source is of another model: {error}"]
    lines = [
        f"{folder}: {name} is {shorten(actual)}, the source's is {shorten(expected)}"
        for name, actual, expected in job.metadata_changes(metadata)
        if name not in {"source", "revision"}
    ]
    if lines:
        return 0, lines
    with progress_of_bytes(f"{source.name}: tensors", total=job.bytes_to_read) as advance:
        lines = compare_tensors(prepared, job, workers=WORKERS, advance=advance)
    return len(job.plan.outputs), lines


def _print(line: str) -> None:
    console().print(line, soft_wrap=True)
