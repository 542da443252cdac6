"""Conversion of a checkpoint to prepared weights, with a few megabytes in memory at a time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.check import TensorNames, check_names, count_mtp_heads
from mimo_v2_flash.checkpoint.param_specs import all_params, is_fused
from mimo_v2_flash.checkpoint.prepared import (
    SOURCE_DIGEST,
    PreparedMetadata,
    read_prepared_index,
)
from mimo_v2_flash.checkpoint.source import Source
from mimo_v2_flash.checkpoint.source_files import content_digest, file_changes
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.io_threads import parallel_map
from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.parallel_config import ParallelConfig, ShardSpec, all_shard_specs

from .encoding import Encoding
from .grid_check import check_grids
from .isq_plan import plan_isq
from .plan import ConversionPlan, ConversionTask, Sample, TensorChunk, convert_task
from .shard_plan import shard_conversion_plan
from .store import Store

__all__ = ["ConversionJob", "plan_conversion_job"]


@dataclass(frozen=True)
class ConversionJob:
    """A planned conversion of one checkpoint.

    Attributes
    ----------
    source, config, encoding
        The checkpoint to read, its model, and the encoding of the prepared weights.
    prepared
        The metadata of the prepared checkpoint.
    plan
        Its tensors, and the tasks that fill them.
    store
        Its files.
    names
        The tensors of the source: which are read, and how many are left out on purpose.
    sample
        What was read of it to check it, and is not converted yet.
    """

    source: Source
    config: MiMoConfig
    encoding: Encoding
    prepared: PreparedMetadata
    plan: ConversionPlan
    store: Store
    names: TensorNames
    sample: Sample = field(default_factory=dict, compare=False)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the source that the tasks read, without headers."""
        return sum(task.nbytes for task in self.plan.tasks)

    def is_complete(self) -> bool:
        """Return whether the prepared checkpoint is already complete.

        Raises
        ------
        ValueError
            If the folder holds other weights or settings, is of another source, or lost a file;
            the message says which.
        """
        folder = self.store.folder
        if not self.store.index.exists():
            return False
        index = read_prepared_index(self.store.index)
        for name, actual, expected in self.metadata_changes(index.prepared):
            raise ValueError(
                f"{folder} holds weights of {name} {shorten(actual)}, "
                f"requested is {shorten(expected)}; choose another folder, or remove it"
            )
        if index.source_files is not None and (
            changes := file_changes(index.source_files, self.store.source_files)
        ):
            raise ValueError(
                f"{folder} holds weights of another source than {self.source.name} is now: "
                f"{changes[0]}; --verify compares them, or choose another folder"
            )
        self.store.check_files(former=index.source_files is None)
        return True

    def metadata_changes(self, actual: PreparedMetadata) -> Iterator[tuple[str, Any, Any]]:
        """Yield each field of metadata or config that differs, its value in `actual` and here.

        The source's digest is not compared: that is for the states of its files.
        """
        values = _flat(actual)
        for name, expected in _flat(self.prepared).items():
            if name != SOURCE_DIGEST and values.get(name) != expected:
                yield name, values.get(name), expected

    def run(self, *, workers: int, advance: Callable[[int], None], resume: bool = True) -> None:
        """Run the tasks that no earlier run has finished, then give the files their names.

        An interrupted or failed run leaves its finished tasks on disk, under temporary names.

        Parameters
        ----------
        workers
            How many threads read and convert.
        advance
            Called with bytes of the source: those of earlier runs, then each task's.
        resume
            Whether an interrupted run may be continued.

        Raises
        ------
        OSError
            If another process writes to the folder, or the disk is full.
        ValueError
            If a tensor cannot be converted, if the source changed while it was read, or if the
            folder holds another checkpoint, or an interrupted run that is not to be continued.
        """
        with self.store.lock():
            if self.is_complete():  # another process has completed it in the meantime
                return
            if self.store.is_interrupted and not resume:
                raise ValueError(
                    f"--output {self.store.folder}: holds an interrupted run; --resume continues it"
                )
            if not self.store.is_interrupted:  # whose sample was good
                self.store.check()
                infos = self.source.tensor_infos(self.names.required)
                self.sample.update(check_grids(self.source, self.config, infos))
            self._run_tasks(workers, advance)
            if changes := file_changes(self.store.source_files, self.source.file_states()):
                raise ValueError(
                    f"{self.source.name}: changed while it was read: {changes[0]}; remove "
                    f"{self.store.folder} and prepare it again"
                )
            self._write_small_files()
            self.store.finish()

    def convert(self, task: ConversionTask) -> list[TensorChunk]:
        """Return the chunks that a task makes of the source; an error names the source's file."""
        return convert_task(self.source, task, self.sample)

    def _run_tasks(self, workers: int, advance: Callable[[int], None]) -> None:
        done = self.store.begin(list(map(_key, self.plan.tasks)))
        remaining = [task for task in self.plan.tasks if _key(task) not in done]
        advance(self.bytes_to_read - sum(task.nbytes for task in remaining))
        parallel_map(partial(self._run_task, advance), remaining, workers)

    def _write_small_files(self) -> None:
        """Write the config, beside every shard too, and the side files."""
        config = f"{json.dumps(self.config.to_dict(), indent=1)}\n".encode()
        for folder in {"": None} | dict.fromkeys(self.store.folders):
            self.store.write_file(str(Path(folder) / "config.json"), config)
        for name, path in self.source.side_files().items():
            self.store.write_file(name, path.read_bytes())

    def _run_task(self, advance: Callable[[int], None], task: ConversionTask) -> None:
        self.store.write(_key(task), self.convert(task))
        advance(task.nbytes)


def plan_conversion_job(
    source: Source,
    config: MiMoConfig,
    folder: Path,
    encoding: Encoding,
    experts: tuple[int, ...],
    *,
    num_layers: int | None = None,
    expert_parallel: int = 1,
    tensor_parallel: int = 1,
    mtp: bool = True,
) -> ConversionJob:
    """Return the job that prepares `experts` of `source`'s model in `folder`; nothing is written.

    `config` is the whole model's, of which the first `num_layers` are kept; by default all. MTP
    heads are kept if `mtp` is true and all layers are: they read the hidden states of the last.

    With expert or tensor parallelism the folder gets a shard for each distinct ShardSpec.

    Parameters
    ----------
    source : Source
        The checkpoint.
    config : MiMoConfig
        Numbers of the whole model.
    folder : Path
        Folder of the prepared files.
    encoding : Encoding
        How weights are written.
    experts : tuple of int
        Ids of the experts to keep.
    num_layers : int, optional
        Layers to keep, from the first on; all if not given.
    expert_parallel, tensor_parallel : int
        Ranks that a shard each is written for.
    mtp : bool
        Whether MTP heads are kept.

    Raises
    ------
    ValueError
        If a tensor is missing or unexpected, or has another shape or dtype; the message names it.
        If the model does not admit these parallel sizes.
    """
    whole, config = config, config if num_layers is None else config.truncated(num_layers)
    shards = _shard_specs(config, experts, expert_parallel, tensor_parallel)
    source_files = source.file_states()  # before headers are read
    available = dict.fromkeys(source.names())
    fused, keeps_mtp = is_fused(available), mtp and config.layers == whole.layers
    heads = count_mtp_heads(config, available, source.tensor_infos) if keeps_mtp else 0
    params = list(all_params(config, experts, fused=fused, mtp_heads=heads))
    names = check_names(source.name, params, available, all_params(whole, fused=fused))
    plan = plan_isq(config, params, source.tensor_infos(names.required), encoding)
    if len(shards) > 1:
        plan = shard_conversion_plan(plan, config, experts, shards)
    prepared = PreparedMetadata(
        source=source.name,
        revision=source.revision,
        dtype=encoding.dtype,
        target=encoding.target,
        experts=experts,
        config=config.to_dict(),
        expert_parallel=expert_parallel,
        tensor_parallel=tensor_parallel,
        source_digest=content_digest(source_files),
        mtp_heads=heads,
        isq=encoding.request.text,
    )
    store = Store(
        folder, plan.outputs, prepared.to_metadata(), source_files=source_files, shards=len(shards)
    )
    return ConversionJob(source, config, encoding, prepared, plan, store, names)


def _shard_specs(
    config: MiMoConfig, experts: tuple[int, ...], expert_parallel: int, tensor_parallel: int
) -> list[ShardSpec]:
    """Return all shards; ValueError if a model of these experts does not admit the sizes."""
    if len(experts) % expert_parallel:  # the layers that are kept may have none
        raise ValueError(
            f"expert_parallel_size = {expert_parallel}: allowed is a divisor of {len(experts)} "
            "experts"
        )
    ParallelConfig(expert_parallel, tensor_parallel, expert_parallel).check(
        replace(config, n_routed_experts=len(experts), num_experts_per_tok=1, num_devices=1)
    )
    return all_shard_specs(expert_parallel, tensor_parallel)


def _flat(prepared: PreparedMetadata) -> dict[str, Any]:
    """Return the config's fields and the metadata's in one mapping, as JSON values."""
    values = json.loads(json.dumps(vars(prepared)))
    return values.pop("config") | values


def _key(task: ConversionTask) -> str:
    """Return a task's line in the journal; its size tells tasks of another `TASK_BYTES` apart."""
    return f"{task.key} {task.nbytes}"
