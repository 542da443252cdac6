"""Conversion of a checkpoint to prepared weights, with a few megabytes in memory at a time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.check import required_tensors
from mimo_v2_flash.checkpoint.io_threads import parallel_map
from mimo_v2_flash.checkpoint.param_specs import all_params, is_fused
from mimo_v2_flash.checkpoint.prepared import PreparedMetadata
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.checkpoint.source import Source
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.json_object import parse_json_object
from mimo_v2_flash.parallel_config import ParallelConfig, all_shard_specs

from .encoding import Encoding
from .plan import ConversionPlan, ConversionTask, plan_conversion
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
    """

    source: Source
    config: MiMoConfig
    encoding: Encoding
    prepared: PreparedMetadata
    plan: ConversionPlan
    store: Store

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the source that the tasks read, without headers."""
        return sum(map(_size, self.plan.tasks))

    def is_complete(self) -> bool:
        """Return whether the prepared checkpoint is already complete.

        Raises
        ------
        ValueError
            If the folder holds other weights or settings, or lost a file; the message says which.
        """
        if not self.store.index.exists():
            return False
        actual, expected = _index_metadata(self.store.index), _flat(self.prepared)
        for name, value in expected.items():
            if actual.get(name) != value:
                raise ValueError(
                    f"{self.store.folder} holds weights of {name} {actual.get(name)!r:.80}, "
                    f"requested is {value!r:.80}; choose another folder, or remove it"
                )
        self.store.check_files()
        return True

    def run(self, *, workers: int, advance: Callable[[int], None]) -> None:
        """Run the tasks that no earlier run has finished, then give the files their names.

        `advance` is called with bytes of the source: those of earlier runs, then each task's. An
        interrupted or failed run leaves its finished tasks on disk, under temporary names.
        """
        done = self.store.begin()
        remaining = [task for task in self.plan.tasks if _key(task) not in done]
        advance(self.bytes_to_read - sum(map(_size, remaining)))
        parallel_map(partial(self._run_task, advance), remaining, workers)
        config = f"{json.dumps(self.config.to_dict(), indent=1)}\n".encode()
        for folder in {"", *self.store.folders}:
            self.store.write_file(str(Path(folder) / "config.json"), config)
        for name, path in self.source.side_files().items():
            self.store.write_file(name, path.read_bytes())
        self.store.finish()

    def _run_task(self, advance: Callable[[int], None], task: ConversionTask) -> None:
        arrays = []
        for info in task.sources:
            data = self.source.read(info.file, info.begin, info.end)
            arrays.append(np.frombuffer(data, DTYPES[info.dtype]).reshape(info.shape))
        try:
            chunks = task.convert(arrays)
        except ValueError as error:
            raise ValueError(f"{task.sources[0].file}: {error}") from error
        self.store.write(_key(task), chunks)
        advance(_size(task))


def plan_conversion_job(
    source: Source,
    config: MiMoConfig,
    folder: Path,
    encoding: Encoding,
    experts: tuple[int, ...],
    *,
    expert_parallel: int = 1,
    tensor_parallel: int = 1,
) -> ConversionJob:
    """Return the job that prepares `experts` of `source`'s model in `folder`; nothing is written.

    With expert or tensor parallelism the folder gets a shard for each distinct ShardSpec.

    Raises
    ------
    ValueError
        If a tensor is missing or has another shape or dtype; the message names it. If the model
        does not admit these parallel sizes.
    """
    ParallelConfig(expert_parallel, tensor_parallel, expert_parallel).check(
        replace(config, n_routed_experts=len(experts), num_experts_per_tok=1, num_devices=1)
    )
    shards = all_shard_specs(expert_parallel, tensor_parallel)
    available = frozenset(source.names())
    params = list(all_params(config, experts, fused=is_fused(available)))
    infos = source.tensor_infos(required_tensors(source.name, params, available))
    plan = plan_conversion(config, params, infos, encoding)
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
    )
    store = Store(folder, plan.outputs, prepared.to_metadata(), shards=len(shards))
    return ConversionJob(source, config, encoding, prepared, plan, store)


def _index_metadata(index: Path) -> dict[str, Any]:
    """Return the metadata in the index of a complete checkpoint."""
    try:
        prepared = PreparedMetadata.of_metadata(parse_json_object(index.read_bytes())["metadata"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index}: damaged, or of another release: {error}") from error
    return _flat(prepared) if prepared else {}


def _flat(prepared: PreparedMetadata) -> dict[str, Any]:
    """Return the metadata's fields and the config's fields in one mapping, as JSON values."""
    values = json.loads(json.dumps(vars(prepared)))
    return values | values.pop("config")


def _key(task: ConversionTask) -> str:
    """Return a task's line in the journal; its size tells tasks of another `TASK_BYTES` apart."""
    return f"{task.key} {_size(task)}"


def _size(task: ConversionTask) -> int:
    return sum(info.end - info.begin for info in task.sources)
