"""One recipe for all shards: what a rank's files hold of each tensor of the whole.

The source is read once. Each piece makes rows of whole tensors, of which every shard is given its
rows, or its columns of them; what is not split goes to all.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.block_scale import BLOCK
from mimo_v2_flash.parallel_config import ShardSpec

from . import fp8, param_specs
from .conversion_tasks import ConversionPlan, ConversionTask, OutputTensor, TensorChunk
from .shard_weights import AxisSlice, attention_slices, dense_slices, sliced_block_height

__all__ = ["shard_conversion_plan"]

Shapes = dict[str, tuple[int, ...]]


class _Slice(NamedTuple):
    """What a shard has of a tensor: its rows each `repeat` times, of which a `axis_slice`."""

    shard: int
    repeat: int
    axis_slice: AxisSlice

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        rows, *columns = whole
        part = len(self.axis_slice.indices)
        return (part, *columns) if self.axis_slice.axis == 0 else (rows, part)

    def of(self, part: TensorChunk) -> list[TensorChunk]:
        """Return what the shard has of some rows of the tensor; an empty list for nothing."""
        first = part.begin // (part.array.nbytes // len(part.array))
        if self.axis_slice.axis == 1:
            array = part.array[:, self.axis_slice.indices.start : self.axis_slice.indices.stop]
            return [self._part(part.name, first, array)]
        array, first = np.repeat(part.array, self.repeat, axis=0), first * self.repeat
        start, stop = self.axis_slice.indices.start, self.axis_slice.indices.stop
        rows = array[max(start - first, 0) : max(stop - first, 0)]
        return [self._part(part.name, max(first - start, 0), rows)] if len(rows) else []

    def _part(self, name: str, row: int, array: np.ndarray) -> TensorChunk:
        return TensorChunk(name, row * (array.nbytes // len(array)), array, self.shard)


def shard_conversion_plan(
    plan: ConversionPlan, config: MiMoConfig, experts: Sequence[int], shards: Sequence[ShardSpec]
) -> ConversionPlan:
    """Return the recipe of every shard's tensors, from that of the whole.

    Parameters
    ----------
    recipe
        Of a prepared checkpoint of `config` with `experts`.
    shares
        What each shard has.

    Raises
    ------
    ValueError
        If a cut lies inside an FP8 block that cannot be lowered; the message names the weight.
    """
    shapes = {output.name: output.shape for output in plan.outputs}
    slices: dict[str, list[_Slice]] = {name: [] for name in shapes}
    for shard, shard_spec in enumerate(shards):
        axis_slices = (
            dict(_axis_slices(config, shard_spec)) if shard_spec.tensor_parallel_size > 1 else {}
        )
        here = shard_spec.expert_range(len(experts))
        absent = _experts(config, [e for i, e in enumerate(experts) if i not in here])
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
        made = task.convert(arrays)
        return [own for part in made for each in slices[part.name] for own in each.of(part)]

    return task._replace(convert=convert)


def _axis_slices(config: MiMoConfig, shard_spec: ShardSpec) -> Iterator[tuple[str, AxisSlice]]:
    """Yield the cut of every weight that is split, by its name."""
    yield (
        param_specs.embedding_norm_head(config)[2].name,
        AxisSlice(0, shard_spec.tensor_range(config.vocab_size)),
    )
    for index, spec in enumerate(config.layers):
        prefix = f"model.layers.{index}"
        declared = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        axis_slices = attention_slices(spec.attention, shard_spec)[
            : len(declared)
        ]  # without sinks, no sink's
        yield from zip((weight.name for weight in declared), axis_slices, strict=True)
        if not spec.num_experts:
            network = zip(
                param_specs.dense(prefix, spec), dense_slices(spec, shard_spec), strict=True
            )
            yield from ((weight.name, axis_slice) for weight, axis_slice in network)


def _experts(config: MiMoConfig, experts: Sequence[int]) -> set[str]:
    """Return the names of the weights of `experts` in every layer."""
    layers = [
        (f"model.layers.{i}", spec) for i, spec in enumerate(config.layers) if spec.num_experts
    ]
    return {
        weight.name
        for prefix, spec in layers
        for expert in experts
        for weight in param_specs.expert(prefix, spec, expert)
    }


def _slice(shard: int, name: str, axis_slice: AxisSlice, shapes: Shapes) -> _Slice:
    """Return what a shard has of a tensor, of which its weight has a `axis_slice`; scales follow it."""
    if not name.endswith(param_specs.SCALE):
        return _Slice(shard, 1, axis_slice)
    weight, whole = name.removesuffix(param_specs.SCALE), axis_slice.indices
    height = fp8.block_height((shapes[weight], shapes[name])) or BLOCK
    new = sliced_block_height(height, whole) if axis_slice.axis == 0 else BLOCK
    if new not in (BLOCK, fp8.HALF_BLOCK) or whole.start % new:
        raise ValueError(
            f"{weight}: shares of {len(whole)} {('rows', 'columns')[axis_slice.axis]} cut FP8 blocks of "
            f"{BLOCK} apart: allowed is another tensor_parallel"
        )
    blocks = AxisSlice(axis_slice.axis, range(whole.start // new, -(-whole.stop // new)))
    return _Slice(shard, height // new if axis_slice.axis == 0 else 1, blocks)
