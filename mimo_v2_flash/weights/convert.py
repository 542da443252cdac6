"""From a source's checkpoint to this project's weights, a few megabytes in memory at a time."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig, all_shard_specs

from .conversion_plan import declared_weights, needed, plan_conversion
from .conversion_tasks import ConversionPlan, ConversionTask
from .encoding import Encoding
from .io_threads import parallel_map
from .metadata import PreparedMetadata
from .safetensors_file import DTYPES
from .shard_plan import shard_conversion_plan
from .source import Source
from .store import Store

__all__ = ["ConversionJob", "plan_conversion_job"]


@dataclass(frozen=True)
class ConversionJob:
    """A checkpoint that is to be prepared.

    Attributes
    ----------
    source, config, encoding
        Where from, what, and as what.
    prepared
        The metadata of the result.
    recipe
        Its tensors and pieces.
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
        """Bytes of the source that are needed, without headers."""
        return sum(map(_size, self.plan.tasks))

    def is_complete(self) -> bool:
        """Return whether the result is already there.

        Raises
        ------
        ValueError
            If a result of other weights or settings is there; the message names the difference.
        """
        if not self.store.index.exists():
            return False
        there, asked = _said_by(self.store.index), _flat(self.prepared)
        for name, value in asked.items():
            if there.get(name) != value:
                raise ValueError(
                    f"{self.store.folder} holds weights of {name} {there.get(name)!r:.80}, asked "
                    f"for is {value!r:.80}; choose another folder, or remove it"
                )
        self.store.check_files()
        return True

    def run(self, *, workers: int, advance: Callable[[int], None]) -> None:
        """Read, convert and write what is not yet there; `advance` hears of bytes read.

        An interrupted or failed run leaves what it has done, under temporary names.
        """
        done = self.store.begin()
        missing = [task for task in self.plan.tasks if _key(task) not in done]
        advance(self.bytes_to_read - sum(map(_size, missing)))
        parallel_map(partial(self._make, advance), missing, workers)
        config = f"{json.dumps(self.config.to_dict(), indent=1)}\n".encode()
        for folder in {"", *self.store.folders}:
            self.store.write_file(str(Path(folder) / "config.json"), config)
        for name, path in self.source.side_files().items():
            self.store.write_file(name, path.read_bytes())
        self.store.finish()

    def _make(self, advance: Callable[[int], None], task: ConversionTask) -> None:
        arrays = []
        for info in task.sources:
            data = self.source.read(info.file, info.begin, info.end)
            arrays.append(np.frombuffer(data, DTYPES[info.dtype]).reshape(info.shape))
        try:
            parts = task.convert(arrays)
        except ValueError as error:
            raise ValueError(f"{task.sources[0].file}: {error}") from error
        self.store.write(_key(task), parts)
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

    On several ranks the folder gets a shard for each different share that ranks have.

    Raises
    ------
    ValueError
        If a tensor is missing, misshapen or of another dtype; the message names it. If the model
        cannot be split so.
    """
    ParallelConfig(expert_parallel, tensor_parallel, expert_parallel).check(
        replace(config, n_routed_experts=len(experts), num_experts_per_tok=1, num_devices=1)
    )
    shards = all_shard_specs(expert_parallel, tensor_parallel)
    declared = declared_weights(config, experts, source.names())
    try:
        wanted = needed(declared, source.names())
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from error
    infos = source.tensor_infos(wanted)
    plan = plan_conversion(config, declared, infos, encoding)
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


def _said_by(index: Path) -> dict[str, Any]:
    """Return what the index of a finished checkpoint says of it."""
    try:
        there = PreparedMetadata.of_metadata(json.loads(index.read_bytes())["metadata"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{index}: damaged, or of another release: {error}") from error
    return _flat(there) if there else {}


def _flat(prepared: PreparedMetadata) -> dict[str, Any]:
    """Return all that is said of a checkpoint, as JSON has it, the config's fields among it."""
    said = json.loads(json.dumps(vars(prepared)))
    return said | said.pop("config")


def _key(task: ConversionTask) -> str:
    """Return a piece's line in the journal; a release with pieces of other sizes has others."""
    return f"{task.key} {_size(task)}"


def _size(task: ConversionTask) -> int:
    return sum(info.end - info.begin for info in task.sources)
