"""Sharding of a conversion plan: one plan writes all shards and reads the source once.

Each task makes rows of whole tensors. Every shard gets its slice of their rows or columns; tensors
that are not split go to all shards.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint import fp8, param_specs
from mimo_v2_flash.checkpoint.shard_weights import AxisSlice, attention_slices, dense_slices
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ShardSpec
from mimo_v2_flash.quantization.fp8 import BLOCK, sliced_block_height

from .plan import ConversionPlan, ConversionTask, OutputTensor, TensorChunk

__all__ = ["shard_conversion_plan"]

Shapes = dict[str, tuple[int, ...]]


class _Slice(NamedTuple):
    """A shard's slice of a tensor: `axis_slice`, after each row was repeated `repeat` times."""

    shard: int
    repeat: int
    axis_slice: AxisSlice

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        rows, *columns = whole
        length = len(self.axis_slice.indices)
        return (length, *columns) if self.axis_slice.axis == 0 else (rows, length)

    def apply(self, chunk: TensorChunk) -> list[TensorChunk]:
        """Return the shard's slice of some rows of the tensor; an empty list if it has none."""
        start, stop = self.axis_slice.indices.start, self.axis_slice.indices.stop
        first = chunk.begin // (chunk.array.nbytes // len(chunk.array))
        if self.axis_slice.axis == 1:
            return [TensorChunk.at_row(chunk.name, first, chunk.array[:, start:stop], self.shard)]
        array, first = np.repeat(chunk.array, self.repeat, axis=0), first * self.repeat
        rows = array[max(start - first, 0) : max(stop - first, 0)]
        row = max(first - start, 0)
        return [TensorChunk.at_row(chunk.name, row, rows, self.shard)] if len(rows) else []


def shard_conversion_plan(
    plan: ConversionPlan, config: MiMoConfig, experts: Sequence[int], shards: Sequence[ShardSpec]
) -> ConversionPlan:
    """Return the plan of all shards, from the plan of the whole checkpoint.

    Parameters
    ----------
    plan
        The plan of a prepared checkpoint of `config` with `experts`.
    config, experts
        The whole model, and the ids of the experts to prepare.
    shards
        The part of the model in each shard.

    Raises
    ------
    ValueError
        If a slice splits FP8 blocks that cannot be made lower; the message names the weight.
    """
    shapes = {output.name: output.shape for output in plan.outputs}
    slices: dict[str, list[_Slice]] = {name: [] for name in shapes}
    for shard, shard_spec in enumerate(shards):
        axis_slices = (
            dict(_axis_slices(config, shard_spec)) if shard_spec.tensor_parallel_size > 1 else {}
        )
        local_experts = shard_spec.expert_range(len(experts))
        absent = _experts(config, [e for i, e in enumerate(experts) if i not in local_experts])
        for name in shapes:
            weight = name.removesuffix(param_specs.SCALE)
            if axis_slice := axis_slices.get(weight):
                slices[name].append(_slice(shard, name, axis_slice, shapes))
            elif weight not in absent:
                slices[name].append(_Slice(shard, 1, AxisSlice(0, range(shapes[name][0]))))
    outputs = [
        OutputTensor(name, dtype, part.shape(shape), part.shard)
        for name, dtype, shape, _ in plan.outputs
        for part in slices[name]
    ]
    return ConversionPlan(outputs, [_sharded_task(task, slices) for task in plan.tasks])


def _sharded_task(task: ConversionTask, slices: dict[str, list[_Slice]]) -> ConversionTask:
    def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
        chunks = task.convert(arrays)
        return [sliced for c in chunks for part in slices[c.name] for sliced in part.apply(c)]

    return task._replace(convert=convert)


def _axis_slices(config: MiMoConfig, shard_spec: ShardSpec) -> Iterator[tuple[str, AxisSlice]]:
    """Yield the name and AxisSlice of every weight that is split."""
    yield (
        param_specs.embedding_norm_head(config)[2].name,
        AxisSlice(0, shard_spec.tensor_range(config.vocab_size)),
    )
    for index, spec in enumerate(config.layers):
        prefix = f"model.layers.{index}"
        params = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        axis_slices = attention_slices(spec.attention, shard_spec)  # the last is the sinks'
        yield from zip((param.name for param in params), axis_slices[: len(params)], strict=True)
        if not spec.num_experts:
            names = (param.name for param in param_specs.dense(prefix, spec))
            yield from zip(names, dense_slices(spec, shard_spec), strict=True)


def _experts(config: MiMoConfig, experts: Sequence[int]) -> set[str]:
    """Return the names of the weights of `experts` in every layer."""
    return {
        param.name
        for index, spec in enumerate(config.layers)
        if spec.num_experts
        for expert in experts
        for param in param_specs.expert(f"model.layers.{index}", spec, expert)
    }


def _slice(shard: int, name: str, axis_slice: AxisSlice, shapes: Shapes) -> _Slice:
    """Return a shard's slice of a weight by `axis_slice`, or of the weight's scales."""
    if not name.endswith(param_specs.SCALE):
        return _Slice(shard, 1, axis_slice)
    weight, indices = name.removesuffix(param_specs.SCALE), axis_slice.indices
    height = fp8.block_height((shapes[weight], shapes[name])) or BLOCK
    new = sliced_block_height(height, indices) if axis_slice.axis == 0 else BLOCK
    if new not in (BLOCK, fp8.HALF_BLOCK) or indices.start % new:
        raise ValueError(
            f"{weight}: shards of {len(indices)} {('rows', 'columns')[axis_slice.axis]} split FP8 "
            f"blocks of {BLOCK}: choose another tensor_parallel"
        )
    blocks = AxisSlice(axis_slice.axis, range(indices.start // new, -(-indices.stop // new)))
    return _Slice(shard, height // new if axis_slice.axis == 0 else 1, blocks)
