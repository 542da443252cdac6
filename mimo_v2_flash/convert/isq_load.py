"""Quantization while loading: a checkpoint's weights in other formats, in memory or in a cache.

Source bytes are read, quantized and dropped a few megabytes at a time, so that memory holds the
result and little else. A cache folder keeps the result as prepared weights, which are mapped.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from math import prod
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint import load_weights, param_specs
from mimo_v2_flash.checkpoint.check import NOT_REQUESTED, check_names, count_mtp_heads
from mimo_v2_flash.checkpoint.isq_table import IsqRequest, IsqRow, isq_lint
from mimo_v2_flash.checkpoint.load import Reader, read_contents
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.safetensors_file import READABLE
from mimo_v2_flash.checkpoint.source import Checkpoint, FolderSource, open_checkpoint
from mimo_v2_flash.checkpoint.source_files import content_digest
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.gguf_files import as_folder, gguf_in
from mimo_v2_flash.io_threads import parallel_map
from mimo_v2_flash.parallel import HostGroup
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import HUB_FORMAT, get_format

from .encoding import Encoding
from .isq_plan import plan_isq
from .job import plan_conversion_job
from .plan import ConversionPlan, ConversionTask, TensorChunk, convert_task
from .shard_plan import shard_conversion_plan

__all__ = [
    "IsqJob",
    "IsqProgress",
    "estimate_seconds",
    "load_cached",
    "load_isq",
    "load_quantized",
    "no_report",
    "warn_of_topology",
]

SAMPLE = 256, 2048  # the shape of the weight by which the time is estimated
WORKERS = 2  # that read while others quantize, which takes all threads


class IsqJob(NamedTuple):
    """A quantization that is about to begin: what becomes of each weight, and bytes to read."""

    table: Sequence[IsqRow]
    bytes_to_read: int


Advance = Callable[[int], None]
IsqProgress = Callable[[IsqJob], AbstractContextManager[Advance]]
"""A report of a job: a context whose value takes the bytes of the source as they are done."""


@contextmanager
def no_report(_: IsqJob) -> Iterator[Advance]:
    """Report nothing."""
    yield lambda _: None


def load_isq(
    path: str | PathLike[str],
    config: MiMoConfig,
    request: IsqRequest,
    share: ShardSpec,
    *,
    cache: str | PathLike[str] | None,
    report: IsqProgress,
    group: HostGroup,
) -> ModelWeights:
    """Return the weights of a checkpoint: as stored, quantized in memory, or of a cache folder.

    Parameters and errors are those of `load_weights`, `load_quantized` and `load_cached`.

    Parameters
    ----------
    path : path
        Folder of the checkpoint.
    config : MiMoConfig
        The architecture's numbers.
    request : IsqRequest
        What weights are quantized to; nothing if it is empty.
    share : ShardSpec
        This rank's part.
    cache : path or None
        Folder that keeps quantized weights; memory if None.
    report : IsqProgress
        Called when all is planned.
    group : HostGroup
        The ranks that share the disk.
    """
    if not request.text:
        if cache is not None:
            raise ValueError("isq_cache is for weights that isq or topology quantizes")
        return load_weights(path, config, share=share)
    if gguf_in(as_folder(path)):
        raise ValueError(f"{path}: isq and topology are for safetensors, a GGUF file has its types")
    if cache is None:
        return load_quantized(path, config, request, share=share, report=report)
    folder = Path(cache)
    return load_cached(path, config, request, folder, group=group, share=share, report=report)


def load_quantized(
    path: str | PathLike[str],
    config: MiMoConfig,
    request: IsqRequest,
    *,
    share: ShardSpec | None = None,
    report: IsqProgress = no_report,
) -> ModelWeights:
    """Return the weights of the checkpoint at `path`, quantized, in memory.

    Of a rank's share only its experts are read. All else is quantized whole and sliced, so that a
    share has the bits of the whole model's slice.

    Parameters
    ----------
    path, config, share
        As of `load_weights`.
    request
        What weights are quantized to.
    report
        Called when all is planned; as of `IsqProgress`.

    Raises
    ------
    FileNotFoundError, ValueError
        As of `load_weights`; also if the checkpoint holds shards, or a slice parts a block.
    """
    tensors = open_checkpoint(Path(path))
    experts, shard_spec, prepared = read_contents(Path(path), tensors, config, None)
    if shard_spec != UNSHARDED:
        raise ValueError(f"{path}: holds a shard; isq reads a whole checkpoint, prepare writes any")
    share = share or UNSHARDED
    heads = count_mtp_heads(config, tensors, tensors.tensor_infos)
    encoding = Encoding(HUB_FORMAT, "cpu", request)
    plan = _plan(str(path), tensors, config, experts, share, heads, encoding)
    warn_of_topology(encoding, config)
    arrays = {
        output.name: np.empty(output.shape, READABLE[output.dtype]) for output in plan.outputs
    }
    source = FolderSource(Path(path))
    with report(IsqJob(encoding.table, sum(task.nbytes for task in plan.tasks))) as advance:

        def run(task: ConversionTask) -> None:
            for chunk in convert_task(source, task):
                _write(arrays[chunk.name], chunk)
            advance(task.nbytes)

        parallel_map(run, plan.tasks, WORKERS)
    quantized = _MemoryCheckpoint(Path(path), arrays)
    weights = Reader(quantized, plan.formats, config, experts, share).model(heads)
    return weights._replace(prepared=(prepared.dtype, prepared.target) if prepared else None)


def load_cached(
    path: str | PathLike[str],
    config: MiMoConfig,
    request: IsqRequest,
    folder: Path,
    *,
    group: HostGroup,
    share: ShardSpec | None = None,
    report: IsqProgress = no_report,
) -> ModelWeights:
    """Return the weights of the checkpoint at `path`, quantized, mapped from a folder in `folder`.

    Rank 0 writes that folder, if an earlier run has not: an interrupted run goes on. The name of
    the folder has a digest of source and request, so that `folder` may hold any number of them.
    Parameters and errors are those of `load_quantized`; `group` are the ranks that share the disk.

    Parameters
    ----------
    path : path
        Folder of the checkpoint.
    config : MiMoConfig
        The architecture's numbers.
    request : IsqRequest
        What weights are quantized to.
    folder : Path
        Folder of the caches.
    group : HostGroup
        The ranks that share the disk.
    share : ShardSpec, optional
        This rank's part; all if not given.
    report : IsqProgress
        Called when all is planned.
    """
    source, tensors = FolderSource(Path(path)), open_checkpoint(Path(path))
    experts, _, _ = read_contents(Path(path), tensors, config, None)
    key = content_digest(source.file_states()) + request.text
    target = folder / f"{Path(path).resolve().name}-{sha256(key.encode()).hexdigest()[:16]}"
    if group.rank == 0:
        encoding = Encoding(HUB_FORMAT, "cpu", request)
        job = plan_conversion_job(source, config, target, encoding, experts)
        warn_of_topology(encoding, config)
        if not job.is_complete():
            with report(IsqJob(encoding.table, job.bytes_to_read)) as advance:
                job.run(workers=WORKERS, advance=advance)
    group.broadcast(b"")  # others wait
    return load_weights(target, config, share=share)


def estimate_seconds(table: Sequence[IsqRow]) -> float:
    """Return about how long it takes to quantize weights on this machine, without reading them.

    A few rows of noise are quantized to each format, and timed.
    """
    seconds, sample_OI = 0.0, np.random.default_rng(0).standard_normal(SAMPLE, np.float32)
    for name in sorted({row.form for row in table if row.form}):
        form, times = get_format(name), []
        for _ in range(2):  # the first loads compiled code
            start = time.perf_counter()
            form.quantize(sample_OI)
            times.append(time.perf_counter() - start)
        weights = sum(prod(row.shape) for row in table if row.form == name)
        seconds += min(times) * weights / sample_OI.size
    return seconds


def warn_of_topology(encoding: Encoding, config: MiMoConfig) -> None:
    """Warn of what is odd in a topology, and go on."""
    for line in isq_lint(encoding.table, encoding.request, config.num_hidden_layers):
        warnings.warn(f"topology: {line}", stacklevel=3)


def _plan(
    where: str,
    tensors: Checkpoint,
    config: MiMoConfig,
    experts: tuple[int, ...],
    share: ShardSpec,
    heads: int,
    encoding: Encoding,
) -> ConversionPlan:
    """Return the plan of a rank's share, which leaves out the experts of others."""
    fused, local = param_specs.is_fused(tensors), share.expert_range(len(experts))
    whole = param_specs.all_params(config, experts, fused=fused, mtp_heads=heads)
    ids = experts[local.start : local.stop]
    params = list(param_specs.all_params(config, ids, fused=fused, mtp_heads=heads))
    names = check_names(where, params, tensors, whole)
    left_out = {owner: count for owner, count in names.left_out.items() if owner != NOT_REQUESTED}
    if left_out:
        line = names._replace(left_out=left_out).describe_left_out()
        warnings.warn(f"{where}: {line}", stacklevel=4)
    plan = plan_isq(config, params, tensors.tensor_infos(names.required), encoding)
    if share.tensor_parallel_size > 1:
        plan = shard_conversion_plan(plan, config, experts, [share])
    return plan


def _write(array: np.ndarray, chunk: TensorChunk) -> None:
    data = np.ascontiguousarray(chunk.array).reshape(-1).view(np.uint8)
    array.reshape(-1).view(np.uint8)[chunk.begin : chunk.begin + len(data)] = data


class _MemoryCheckpoint(Checkpoint):
    """A checkpoint in memory, made of the file or folder `path`."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(dict.fromkeys(arrays, path))
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]
