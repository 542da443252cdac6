"""Loading of a checkpoint as ModelWeights: matrices stay memory-mapped, vectors become float32."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.gguf_files import as_folder, gguf_in
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import QuantizedTensor

from . import check, param_specs
from .param_specs import ParamSpec
from .params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
    MTPWeights,
)
from .prepared import PreparedMetadata, check_shard, find_shard_folder
from .projections import find_layout
from .source import Checkpoint, open_checkpoint

__all__ = ["ModelBuilder", "Reader", "load_weights", "read_contents"]


def load_weights(
    path: str | PathLike[str], config: MiMoConfig, *, share: ShardSpec | None = None
) -> ModelWeights:
    """Return the weights of the checkpoint at `path`, memory-mapped: matrices are read when used.

    Names, shapes and dtypes are checked here, and no byte of an expert is read. Whether scales are
    positive numbers is checked when a weight is first used: a ValueError then names it. Towers of
    other modalities and incomplete MTP heads are not read, which one warning names.

    Parameters
    ----------
    path : str or PathLike
        A folder of safetensors files in the hub's names, with an index or without: the hub's own,
        one that transformers saved, or one of `prepare_weights.py`; or one such file, or the file
        name that a prepared checkpoint would have if it had not been split.
    config : MiMoConfig
        The model; every weight's shape is checked against it. It counts all of the model's experts;
        the metadata of prepared weights says which of them they hold.
    share : ShardSpec, optional
        This rank's part, `ParallelConfig.shard_spec(rank)`. Where the folder holds shards, the
        rank's is opened; any other checkpoint is mapped whole, and the model slices it.

    Returns
    -------
    ModelWeights
        Matrices [out, in] as stored: float32 or bfloat16 arrays, or a `QuantizedTensor`; float16
        is read as float32. Norms, routers, biases and sinks are float32.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint at `path`, or a shard is missing.
    ValueError
        If a weight is missing, unexpected, misshapen, of another dtype, or has scales that do not
        fit; the message names it and its file. If the shard is that of another rank, ParallelConfig
        or checkpoint.
    """
    path = as_folder(path)
    if gguf := gguf_in(path):
        from .gguf_weights import load_gguf_weights  # noqa: PLC0415  derives from ModelBuilder

        return load_gguf_weights(gguf, config)
    source = find_shard_folder(path, share)
    tensors = open_checkpoint(source)
    experts, shard_spec, prepared = read_contents(source, tensors, config, share)
    fused = param_specs.is_fused(tensors)
    heads = check.count_mtp_heads(config, tensors, tensors.tensor_infos)
    if prepared and heads != prepared.mtp_heads:
        raise ValueError(
            f"{source}: holds {heads} complete MTP heads, its metadata has {prepared.mtp_heads}"
        )
    params = list(
        param_specs.all_params(config, experts, fused=fused, shard_spec=shard_spec, mtp_heads=heads)
    )
    names = check.check_names(str(source), params, tensors)
    if names.left_out:
        warnings.warn(f"{source}: {names.describe_left_out()}", stacklevel=2)
    formats = check.check_tensors(params, tensors.tensor_infos(names.required))
    weights = Reader(tensors, formats, config, experts, shard_spec).model(heads)
    return weights._replace(prepared=(prepared.dtype, prepared.target) if prepared else None)


class ModelBuilder(ABC):
    """Builder of ModelWeights, layer by layer; a subclass has the value of each parameter.

    Parameters
    ----------
    config
        The whole model.
    experts
        Ids of the experts to build; routers keep only their rows.
    shard_spec
        The part of the model to build.
    """

    def __init__(
        self, config: MiMoConfig, experts: tuple[int, ...], shard_spec: ShardSpec = UNSHARDED
    ) -> None:
        self._config, self._experts, self._shard_spec = config, experts, shard_spec

    @abstractmethod
    def _matrix(self, param: ParamSpec) -> Any:
        """Return a matrix [out, in], as stored."""

    @abstractmethod
    def _float32(self, param: ParamSpec) -> np.ndarray:
        """Return a norm, a bias, the sinks or a router."""

    def model(self, mtp_heads: int = 0) -> ModelWeights:
        """Return all weights, with so many MTP heads."""
        embedding, final_norm, logits = param_specs.embedding_norm_head(
            self._config, self._shard_spec
        )
        specs = enumerate(map(self._shard_spec.local_layer, self._config.layers))
        return ModelWeights(
            embedding_VD=self._matrix(embedding),
            layers=tuple(self._layer(f"model.layers.{index}", spec) for index, spec in specs),
            final_norm_D=self._float32(final_norm),
            w_logits_VD=self._matrix(logits),
            expert_ids=self._experts,
            shard_spec=self._shard_spec,
            mtp=tuple(map(self._mtp_head, range(mtp_heads))),
        )

    def _mtp_head(self, index: int) -> MTPWeights:
        prefix = param_specs.mtp_prefix(index)
        spec = self._shard_spec.local_layer(self._config.mtp_layer)
        norms = map(self._float32, param_specs.mtp_norms(prefix, spec.hidden_size))
        embedding_norm, hidden_norm, attention_norm, feed_forward_norm, final_norm = norms
        w_eh = self._matrix(param_specs.mtp_input(prefix, spec.hidden_size))
        attention, feed_forward = self._attention(prefix, spec), self._dense(prefix, spec)
        layer = DecoderWeights(attention_norm, attention, feed_forward_norm, feed_forward)
        return MTPWeights(embedding_norm, hidden_norm, w_eh, layer, final_norm)

    def _layer(self, prefix: str, spec: LayerSpec) -> DecoderWeights:
        attention_norm, feed_forward_norm = param_specs.layer_norms(prefix, spec)
        feed_forward = self._mixture if spec.num_experts else self._dense
        return DecoderWeights(
            attention_norm_D=self._float32(attention_norm),
            attention=self._attention(prefix, spec),
            feed_forward_norm_D=self._float32(feed_forward_norm),
            feed_forward=feed_forward(prefix, spec),
        )

    def _attention(self, prefix: str, spec: LayerSpec) -> AttentionWeights:
        _, _, _, o, *sink = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        no_sink = np.full(spec.attention.num_heads, NO_SINK, np.float32)
        q, k, v = self._projections(prefix, spec)
        sink_H = self._float32(sink[0]) if sink else no_sink
        return AttentionWeights(q, k, v, self._matrix(o), sink_H)

    def _projections(self, prefix: str, spec: LayerSpec) -> tuple[Any, Any, Any]:
        """Return w_q, w_k and w_v."""
        q, k, v, *_ = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        return self._matrix(q), self._matrix(k), self._matrix(v)

    def _dense(self, prefix: str, spec: LayerSpec) -> DenseWeights:
        return DenseWeights(*map(self._matrix, param_specs.dense(prefix, spec)))

    def _mixture(self, prefix: str, spec: LayerSpec) -> MoEWeights:
        router, bias = (self._float32(param) for param in param_specs.router(prefix, spec))
        ids = list(self._experts)
        return MoEWeights(router[ids], bias[ids], self._local_experts(prefix, spec))

    def _local_experts(self, prefix: str, spec: LayerSpec) -> ExpertWeights:
        local = self._shard_spec.expert_range(len(self._experts))
        return ExpertWeights.of(
            map(self._matrix, param_specs.expert(prefix, spec, expert_id))
            for expert_id in self._experts[local.start : local.stop]
        )


class Reader(ModelBuilder):
    """A reader of a model's weights from a checkpoint.

    Parameters
    ----------
    tensors
        The checkpoint, with the names of `param_specs`; shapes and dtypes have been checked.
    formats
        The format of each weight that is in one, by name: what `check_tensors` returns.
    config, experts, shard_spec
        As for `ModelBuilder`; the checkpoint holds this part of the model.
    """

    def __init__(
        self,
        tensors: Checkpoint,
        formats: Mapping[str, type[QuantizedTensor]],
        config: MiMoConfig,
        experts: tuple[int, ...],
        shard_spec: ShardSpec = UNSHARDED,
    ) -> None:
        super().__init__(config, experts, shard_spec)
        self._tensors, self._formats = tensors, formats

    def _projections(self, prefix: str, spec: LayerSpec) -> tuple[Any, Any, Any]:
        """Return w_q, w_k and w_v, also of a checkpoint where they were quantized together."""
        if self._shard_spec.tensor_parallel_size > 1:  # whose preparation took them apart
            return super()._projections(prefix, spec)
        layout = find_layout(prefix, self._config, spec, self._tensors, self._where)
        joint = layout.load(self._tensors) if layout else {}
        q, k, v, *_ = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        w_q, w_k, w_v = (
            _widened(joint[p.name]) if p.name in joint else self._matrix(p) for p in (q, k, v)
        )
        return w_q, w_k, w_v

    def _matrix(self, param: ParamSpec) -> Any:
        """Return a weight as stored: its format is that of its tensors, whatever a config says."""
        name, shape = param
        form = self._formats.get(name)
        if form is None:
            return _widened(self._tensors[name])
        first = next(iter(form.tensor_names(name).values()))
        where = f"{self._tensors.file_of(first)}: {name}"
        return form.from_checkpoint(where, shape, form.read(self._tensors, name))

    def _where(self, name: str) -> str:
        return f"{self._tensors.file_of(name)}: {name}"

    def _float32(self, param: ParamSpec) -> np.ndarray:
        return self._tensors[param.name].astype(np.float32)


def _widened(weight: Any) -> Any:
    """Return a weight, in float32 if it is an array of float16: nothing computes with it."""
    is_half = isinstance(weight, np.ndarray) and weight.dtype == np.float16
    return weight.astype(np.float32) if is_half else weight


def read_contents(
    source: Path, tensors: Checkpoint, config: MiMoConfig, requested: ShardSpec | None
) -> tuple[tuple[int, ...], ShardSpec, PreparedMetadata | None]:
    """Return the ids of the checkpoint's experts, its ShardSpec and its metadata, checked.

    Parameters
    ----------
    source : Path
        The checkpoint's folder.
    tensors : Checkpoint
        Its tensors.
    config : MiMoConfig
        The architecture's numbers.
    requested : ShardSpec or None
        The part that is wanted; all if None.
    """
    try:
        prepared = PreparedMetadata.of_files(tensors.metadata())
        if prepared:
            prepared.check(config)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not prepared:
        return tuple(range(config.n_routed_experts)), UNSHARDED, None
    if prepared.shards > 1:
        check_shard(source, prepared, requested)
    return prepared.experts, prepared.shard_spec, prepared
