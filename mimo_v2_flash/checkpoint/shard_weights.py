"""Sharding of a model's weights: one rank's part, as views where the file allows it.

Rows and experts are contiguous in a file and stay memory-mapped. Columns are not: this rank's of
o_proj and of the dense down_proj are copied. A `QuantizedTensor` slices itself.
"""

from typing import Any

import numpy as np

from mimo_v2_flash.config import AttentionSpec, LayerSpec, MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import AxisSlice, QuantizedTensor

from .params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ModelWeights,
    MoEWeights,
)

__all__ = [
    "attention_slices",
    "dense_slices",
    "shard_weights",
    "slice_weight",
]


def attention_slices(spec: AttentionSpec, shard_spec: ShardSpec) -> AttentionWeights:
    """Return the AxisSlice of each attention weight."""
    queries = shard_spec.tensor_range(spec.num_heads)
    keys = shard_spec.kv_head_range(spec.num_kv_heads)
    return AttentionWeights(
        AxisSlice(0, _head_rows(queries, spec.head_dim)),
        AxisSlice(0, _head_rows(keys, spec.head_dim)),
        AxisSlice(0, _head_rows(keys, spec.v_head_dim)),
        AxisSlice(1, _head_rows(queries, spec.v_head_dim)),
        AxisSlice(0, queries),
    )


def dense_slices(spec: LayerSpec, shard_spec: ShardSpec) -> DenseWeights:
    """Return the AxisSlice of each weight of a dense feed-forward feed_forward."""
    width = shard_spec.tensor_range(spec.intermediate_size)
    return DenseWeights(AxisSlice(0, width), AxisSlice(0, width), AxisSlice(1, width))


def shard_weights(weights: ModelWeights, config: MiMoConfig, shard_spec: ShardSpec) -> ModelWeights:
    """Return the part of `weights` that `shard_spec` selects.

    Weights that are this part already are returned as they are.

    Raises
    ------
    ValueError
        If the weights are another shard, or a slice parts what a format stores together.
    """
    if weights.shard_spec == shard_spec:
        return weights
    if weights.shard_spec != UNSHARDED:
        raise ValueError(f"the weights are {weights.shard_spec}, this rank's are {shard_spec}")
    layers = zip(weights.layers, config.layers, strict=True)
    return weights._replace(
        layers=tuple(_layer(layer, spec, shard_spec) for layer, spec in layers),
        mtp=tuple(
            head._replace(layer=_layer(head.layer, config.mtp_layer, shard_spec))
            for head in weights.mtp
        ),
        w_logits_VD=slice_weight(
            weights.w_logits_VD, AxisSlice(0, shard_spec.tensor_range(config.vocab_size))
        ),
        shard_spec=shard_spec,
    )


def _layer(layer: DecoderWeights, spec: LayerSpec, shard_spec: ShardSpec) -> DecoderWeights:
    attention, feed_forward = layer.attention, layer.feed_forward
    if isinstance(feed_forward, MoEWeights):
        local_experts = shard_spec.expert_range(spec.num_experts)
        experts = feed_forward.experts[local_experts.start : local_experts.stop]
        feed_forward = feed_forward._replace(experts=experts)
    elif shard_spec.tensor_parallel_size > 1:
        feed_forward = DenseWeights(
            *map(slice_weight, feed_forward, dense_slices(spec, shard_spec))
        )
    if shard_spec.tensor_parallel_size > 1:
        axis_slices = attention_slices(spec.attention, shard_spec)
        attention = AttentionWeights(*map(slice_weight, attention, axis_slices))
    return layer._replace(attention=attention, feed_forward=feed_forward)


def slice_weight(weight: Any, axis_slice: AxisSlice) -> Any:
    """Return a slice of a weight: rows as a view, columns as a copy."""
    axis, indices, _ = axis_slice
    if isinstance(weight, QuantizedTensor):
        return weight.shard(axis, indices)
    if axis == 0:
        return weight[indices.start : indices.stop]
    return np.ascontiguousarray(weight[:, indices.start : indices.stop])


def _head_rows(heads: range, width: int) -> range:
    return range(heads.start * width, heads.stop * width)
