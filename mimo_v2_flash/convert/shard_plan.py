"""Sharding of a conversion plan: one plan writes all shards and reads the source once.

Each task makes rows of whole tensors. Every shard gets its slice of their rows or columns; tensors
that are not split go to all shards.
"""

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.subset import attention_slices, dense_slices
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ShardSpec
from mimo_v2_flash.quantization import AxisSlice

from .plan import ConversionPlan, ConversionTask, OutputTensor, TensorChunk

__all__ = ["shard_conversion_plan"]


class _Slice(NamedTuple):
    """A shard's slice of a tensor."""

    shard: int
    axis_slice: AxisSlice

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        rows, *columns = whole
        length = len(self.axis_slice.indices)
        return (length, *columns) if self.axis_slice.axis == 0 else (rows, length)

    def apply(self, chunk: TensorChunk) -> list[TensorChunk]:
        """Return the shard's slice of some rows of the tensor; an empty list if it has none."""
        axis, indices, repeat = self.axis_slice
        start, stop = indices.start, indices.stop
        first = chunk.begin // (chunk.array.nbytes // len(chunk.array))
        if axis == 1:
            return [TensorChunk.at_row(chunk.name, first, chunk.array[:, start:stop], self.shard)]
        array, first = np.repeat(chunk.array, repeat, axis=0), first * repeat
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
        If a slice parts what a format stores together; the message names the weight.
    """
    shapes = {output.name: output.shape for output in plan.outputs}
    weights = {name: weight for weight, names in _tensors(plan) for name in names.values()}
    slices: dict[str, list[_Slice]] = {name: [] for name in shapes}
    for shard, shard_spec in enumerate(shards):
        axis_slices = {}
        if shard_spec.tensor_parallel_size > 1:
            of_weights = dict(_axis_slices(config, shard_spec, shapes))
            axis_slices = _of_tensors(of_weights, plan, shapes)
        local_experts = shard_spec.expert_range(len(experts))
        absent = _experts(config, [e for i, e in enumerate(experts) if i not in local_experts])
        for name in shapes:
            if weights.get(name, name) not in absent:
                whole = AxisSlice(0, range(shapes[name][0]))
                slices[name].append(_Slice(shard, axis_slices.get(name, whole)))
    outputs = [
        OutputTensor(name, dtype, part.shape(shape), part.shard)
        for name, dtype, shape, _ in plan.outputs
        for part in slices[name]
    ]
    tasks = [_sharded_task(task, slices) for task in plan.tasks]
    return ConversionPlan(outputs, tasks, plan.formats)


def _sharded_task(task: ConversionTask, slices: dict[str, list[_Slice]]) -> ConversionTask:
    def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
        chunks = task.convert(arrays)
        return [sliced for c in chunks for part in slices[c.name] for sliced in part.apply(c)]

    return task._replace(convert=convert)


def _axis_slices(
    config: MiMoConfig, shard_spec: ShardSpec, outputs: Container[str]
) -> Iterator[tuple[str, AxisSlice]]:
    """Yield the name and AxisSlice of every weight that is split; `outputs` are tensors' names."""
    yield (
        param_specs.embedding_norm_head(config)[2].name,
        AxisSlice(0, shard_spec.tensor_range(config.vocab_size)),
    )
    for prefix, spec in param_specs.layers(config, outputs):
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


def _tensors(plan: ConversionPlan) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each weight that is in a storage format, and the names of its tensors by field."""
    for weight, form in plan.formats.items():
        yield weight, form.tensor_names(weight)


def _of_tensors(
    axis_slices: dict[str, AxisSlice], plan: ConversionPlan, shapes: dict[str, tuple[int, ...]]
) -> dict[str, AxisSlice]:
    """Return the slices of tensors, from those of weights."""
    slices = dict(axis_slices)
    for weight, names in _tensors(plan):
        if axis_slice := axis_slices.get(weight):
            of_fields = {field: shapes[name] for field, name in names.items()}
            form = plan.formats[weight]
            for field, part in form.shard_tensors(weight, of_fields, axis_slice).items():
                slices[names[field]] = part
    return slices
