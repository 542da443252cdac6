"""The decoder layers of a model as programs: ranges of layers, single layers, blocks of a layer."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import DecoderWeights
from mimo_v2_flash.config import AttentionSpec, LayerSpec
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher

from .decoder import DecoderLayer
from .exchange_choice import replicates
from .forward_batch import AttentionMetadata, ForwardBatch
from .layer_programs import LayerPrograms
from .layer_range import LayerRange, split_layers
from .parallel_context import ParallelContext
from .replicated_range import ReplicatedLayer, ReplicatedRange

__all__ = ["DecoderStack", "StackInputs"]

ProgramCall = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class StackInputs(NamedTuple):
    """What all layers of a pass take, beside the hidden states."""

    metadata: dict[AttentionSpec, AttentionMetadata]
    caches: tuple[KVCache, ...]
    weights: tuple[DecoderWeights, ...]


class RangeProgram(NamedTuple):
    """The program of a range of layers, and the kinds of attention whose metadata it takes."""

    run: Callable[..., Any]
    kinds: tuple[AttentionSpec, ...]


class DecoderStack:
    """The decoder layers on one rank, and their programs.

    Parameters
    ----------
    layers
        The layer specs, with this rank's heads.
    backend
        The backend that compiles; equal layers, and equal ranges of layers, share a program.
    context
        The ranks that heads and experts are split over.
    layers_per_program
        The most layers of a program; by the execution mode if None.
    dtype
        Dtype of the hidden states.
    """

    def __init__(
        self,
        layers: tuple[LayerSpec, ...],
        backend: Backend,
        context: ParallelContext,
        layers_per_program: int | None = None,
        dtype: Any = np.float32,
    ) -> None:
        self._itemsize = np.dtype(dtype).itemsize
        self._layers, self._backend, self._context = layers, backend, context
        self._specs = tuple(dict.fromkeys(layers))
        self._layers_per_program = layers_per_program
        decoders = {spec: self._build(spec) for spec in self._specs}
        programs = {spec: self._compile(decoder) for spec, decoder in decoders.items()}
        self._decoders = tuple(decoders[spec] for spec in layers)
        self._programs = [programs[spec] for spec in layers]
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._ranges: dict[Any, RangeProgram] = {}  # to hash layers takes long
        self._data_rank_1 = np.array([context.data_parallel_rank], np.int32)

    def calls(self, batch: ForwardBatch, inputs: StackInputs) -> Iterator[ProgramCall]:
        """Yield the program calls of a pass: programs, their arguments after `x_ND`, and options.

        A pass in which experts may overflow runs layer by layer.
        """
        tokens = int(np.sum(batch.count_B))
        dispatchers = [
            self._context.dispatchers(spec, tokens, batch.longest) for spec in self._layers
        ]
        most = 1
        if max(map(len, dispatchers)) == 1:
            rows = batch.longest * self._context.parallel_config.data_parallel_size
            most = self._layers_per_program or self._context.mode.layers_per_program(rows)
        whole = self._range_call
        if most > 1 and self._replicates(batch.longest):
            whole = self._replicated_call
        for layers in split_layers(len(self._layers), most):
            call = self._layer_call if len(layers) == 1 else whole
            yield call(layers, inputs, dispatchers[layers.start : layers.stop])

    def _replicates(self, rows: int) -> bool:
        """Return whether ranges have two collectives a layer, for `rows` tokens of a rank."""
        plan = self._context.parallel_config
        return self._context.dispatcher is None and any(
            replicates(spec, plan, rows, self._itemsize) for spec in self._specs
        )

    def _layer_call(
        self, layers: range, inputs: StackInputs, dispatchers: list[tuple[Dispatcher, ...]]
    ) -> ProgramCall:
        (index,), (choices,), programs = layers, dispatchers, self._programs[layers.start]
        arguments = (
            inputs.metadata[self._layers[index].attention],
            self._context.rank_ids,
            inputs.caches[index],
            inputs.weights[index],
        )
        if len(choices) == 1:
            return programs.layer, arguments, {"dispatcher": choices[0]}
        return programs.run_blocks, arguments, {"dispatchers": choices}

    def _range_call(
        self, layers: range, inputs: StackInputs, dispatchers: list[tuple[Dispatcher, ...]]
    ) -> ProgramCall:
        program = self._range(layers, LayerRange)
        part, choices = slice(layers.start, layers.stop), tuple(one for (one,) in dispatchers)
        metadata = tuple(inputs.metadata[kind] for kind in program.kinds)
        arguments = (metadata, self._context.rank_ids, inputs.caches[part], inputs.weights[part])
        return program.run, arguments, {"dispatchers": choices}

    def _replicated_call(
        self, layers: range, inputs: StackInputs, dispatchers: list[tuple[Dispatcher, ...]]
    ) -> ProgramCall:
        program = self._range(layers, self._replicated)
        part, rank_ids = slice(layers.start, layers.stop), self._context.rank_ids
        metadata = tuple(inputs.metadata[kind] for kind in program.kinds)
        arrays = inputs.caches[part], inputs.weights[part]
        return program.run, (metadata, rank_ids, self._data_rank_1, *arrays), {}

    def _range(self, layers: range, build: Callable[..., Any]) -> RangeProgram:
        """Return the program of a range; equal ranges of a model share one."""
        key = layers, build
        if key not in self._ranges:
            attention = [self._layers[index].attention for index in layers]
            kinds = list(dict.fromkeys(attention))
            part = self._decoders[layers.start : layers.stop]
            function = build(part, tuple(map(kinds.index, attention)))
            if function not in self._compiled:
                self._compiled[function] = self._backend.compile(function, donate="x_ND")
            self._ranges[key] = RangeProgram(self._compiled[function], tuple(kinds))
        return self._ranges[key]

    def _replicated(
        self, decoders: tuple[DecoderLayer, ...], kinds: tuple[int, ...]
    ) -> ReplicatedRange:
        group = self._context.device_world_group
        parts = self._context.parallel_config.data_parallel_size
        layers = tuple(ReplicatedLayer(decoder, group, parts) for decoder in decoders)
        return ReplicatedRange(layers, kinds)

    def _build(self, spec: LayerSpec) -> DecoderLayer:
        context = self._context
        return DecoderLayer.build(
            spec, context.tensor_group, context.expert_group, context.mode, context.overflow_group
        )

    def _compile(self, layer: DecoderLayer) -> LayerPrograms:
        return LayerPrograms(
            self._backend.compile(layer, donate="x_ND"),
            self._backend.compile(layer.attention_block, donate="x_ND"),
            self._backend.compile(layer.feed_forward_block),
        )
