"""Parts of a model's weights: one rank's shard, some experts, the first layers; views if possible.

Rows and experts are contiguous in a file and stay memory-mapped. Columns are not: a rank's of
o_proj and of the dense down_proj are copied. A `QuantizedTensor` slices itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mimo_v2_flash.config import AttentionSpec, LayerSpec, MiMoConfig
from mimo_v2_flash.inputs import as_integer
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import AxisSlice, QuantizedTensor

from .params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)

__all__ = [
    "attention_slices",
    "check_experts",
    "check_model",
    "dense_slices",
    "keep_experts",
    "keep_layers",
    "shard_weights",
    "slice_weight",
]


def check_experts(experts: Sequence[int], available: Sequence[int]) -> list[int]:
    """Return `experts` in ascending order, having checked that they are `available`.

    In this order the router settles equal scores as in the whole model: the lowest id wins.

    Raises
    ------
    ValueError
        If `experts` is empty, names an id twice, or one that is not available.
    """
    ids = [as_integer("expert_subset: an id", expert) for expert in experts]
    if len(ids) != len(set(ids)):
        twice = sorted({expert for expert in ids if ids.count(expert) > 1})
        raise ValueError(f"expert_subset names {twice} more than once")
    if absent := sorted(set(ids) - set(available)) if ids else "no expert":
        raise ValueError(f"expert_subset names {absent}, allowed are {_ranges(available)}")
    return sorted(ids)


def check_model(weights: ModelWeights, config: MiMoConfig) -> None:
    """Raise ValueError if `weights` have other layers, vocabulary or hidden size than `config`."""
    expected = config.num_hidden_layers, (config.vocab_size, config.hidden_size)
    actual = len(weights.layers), tuple(weights.embedding_VD.shape)
    if actual != expected:
        raise ValueError(
            f"the weights have {actual[0]} layers and an embedding {actual[1]}, the config asks "
            f"for {expected[0]} and {expected[1]}"
        )


def keep_experts(
    weights: ModelWeights, config: MiMoConfig, experts: Sequence[int] | None = None
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the model with only `experts`, and its config; a token is routed to at most as many.

    Parameters
    ----------
    weights, config
        The model; its weights may already be a subset of the experts.
    experts
        Ids to keep, as the checkpoint numbers them; by default all that the weights have.

    Raises
    ------
    ValueError
        As for `check_experts`; or if the weights are a shard, of which no experts can be chosen.
    """
    ids = check_experts(weights.expert_ids if experts is None else experts, weights.expert_ids)
    if len(ids) < len(weights.expert_ids):
        if weights.shard_spec != UNSHARDED:
            raise ValueError(
                f"expert_subset of a shard, {weights.shard_spec}: prepare shards of these experts"
            )
        rows = [weights.expert_ids.index(expert) for expert in ids]
        layers = tuple(_select_experts(layer, rows) for layer in weights.layers)
        weights = weights._replace(layers=layers, expert_ids=tuple(ids))
    if len(ids) == config.n_routed_experts:
        return weights, config
    return weights, replace(
        config,
        n_routed_experts=len(ids),
        num_experts_per_tok=min(config.num_experts_per_tok, len(ids)),
        num_devices=1,
    )


def keep_layers(
    weights: ModelWeights, config: MiMoConfig, num_layers: int
) -> tuple[ModelWeights, MiMoConfig]:
    """Return the model's first `num_layers` layers, and their config; ValueError if it has fewer.

    MTP heads are kept with all layers only: they read the hidden states of the last.

    Parameters
    ----------
    weights : ModelWeights
        The whole model's weights.
    config : MiMoConfig
        Its config.
    num_layers : int
        Number of layers to keep.
    """
    few = config.truncated(num_layers)
    heads = weights.mtp if few == config else ()
    return weights._replace(layers=weights.layers[:num_layers], mtp=heads), few


def _select_experts(layer: DecoderWeights, rows: list[int]) -> DecoderWeights:
    mixture = layer.feed_forward
    if not isinstance(mixture, MoEWeights):
        return layer
    experts = ExpertWeights.of(mixture.experts[row] for row in rows)
    subset = MoEWeights(mixture.w_router_ED[rows], mixture.bias_E[rows], experts)
    return layer._replace(feed_forward=subset)


def _ranges(ids: Sequence[int]) -> str:
    """Return ids as short text: 0-7, 9."""
    ordered = np.sort(ids)
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


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

    Parameters
    ----------
    weights : ModelWeights
        The whole model's weights, or this part of them.
    config : MiMoConfig
        The whole model's config.
    shard_spec : ShardSpec
        The part.

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
