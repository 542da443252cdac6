"""Reading of ModelWeights from a checked checkpoint: attention layouts, FP8 scales, experts."""

from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import QuantizedTensor, find_format

from . import fp8, param_specs
from .checkpoint import Checkpoint
from .param_specs import ParamSpec
from .params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)

__all__ = ["Reader", "weight_location"]


def weight_location(
    tensors: Checkpoint, name: str, form: type[QuantizedTensor] | None = None
) -> str:
    """Return the file and name of a weight of format `form`, whose tensors may be named apart."""
    stored = next(iter(form.tensor_names(name).values())) if form else name
    return f"{tensors.file_of(stored)}: {name}"


class Reader:
    """A reader of a model's weights from a checkpoint.

    Parameters
    ----------
    tensors
        The checkpoint, with the names of `param_specs`; shapes and dtypes have been checked.
    config
        The whole model.
    experts
        Ids of the experts to read; routers keep only their rows.
    shard_spec
        The part of the model that the checkpoint holds.
    """

    def __init__(
        self,
        tensors: Checkpoint,
        config: MiMoConfig,
        experts: tuple[int, ...],
        shard_spec: ShardSpec = UNSHARDED,
    ) -> None:
        self._tensors, self._config, self._experts = tensors, config, experts
        self._shard_spec = shard_spec

    def model(self) -> ModelWeights:
        """Return all weights."""
        embedding, final_norm, logits = param_specs.embedding_norm_head(self._config)
        specs = enumerate(map(self._shard_spec.local_layer, self._config.layers))
        return ModelWeights(
            embedding_VD=self._tensors[embedding.name],
            layers=tuple(self._layer(f"model.layers.{index}", spec) for index, spec in specs),
            final_norm_D=self._float32(final_norm),
            w_logits_VD=self._matrix(logits),
            expert_ids=self._experts,
            shard_spec=self._shard_spec,
        )

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
        """Return w_q, w_k and w_v: split or fused, with scales on plain grids or crossing."""
        a = spec.attention
        heads = fp8.Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
        q, k, v, *_ = param_specs.attention(prefix, a, spec.hidden_size)
        fused = f"{prefix}.{param_specs.FUSED}"
        if fused in self._tensors:
            ranks = self._config.num_key_value_heads
            return fp8.split_fused(
                weight_location(self._tensors, fused), *self._quantized(fused), heads, ranks
            )
        formats = {find_format(self._tensors, param.name) for param in (k, v)}
        is_sharded = self._shard_spec.tensor_parallel_size > 1  # then scales are on plain grids
        if is_sharded or formats != {fp8.BlockScaled}:
            return self._matrix(q), self._matrix(k), self._matrix(v)
        both = self._quantized(k.name), self._quantized(v.name)
        return self._matrix(q), *fp8.keys_and_values(
            weight_location(self._tensors, k.name), *both, heads
        )

    def _dense(self, prefix: str, spec: LayerSpec) -> DenseWeights:
        gate, up, down = map(self._matrix, param_specs.dense(prefix, spec))
        return DenseWeights(gate, up, down)

    def _mixture(self, prefix: str, spec: LayerSpec) -> MoEWeights:
        router, bias = (self._float32(param) for param in param_specs.router(prefix, spec))
        ids, local_experts = list(self._experts), self._shard_spec.expert_range(len(self._experts))
        experts = (
            map(self._matrix, param_specs.expert(prefix, spec, expert_id))
            for expert_id in ids[local_experts.start : local_experts.stop]
        )
        return MoEWeights(router[ids], bias[ids], ExpertWeights.of(experts))

    def _matrix(self, param: ParamSpec) -> Any:
        """Return a weight as stored: its format is that of its tensors, whatever a config says."""
        name, shape = param
        if form := find_format(self._tensors, name):
            where = weight_location(self._tensors, name, form)
            return form.from_checkpoint(where, shape, form.read(self._tensors, name))
        return self._tensors[name]

    def _quantized(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self._tensors[name], self._tensors[name + param_specs.SCALE]

    def _float32(self, param: ParamSpec) -> np.ndarray:
        return self._tensors[param.name].astype(np.float32)
