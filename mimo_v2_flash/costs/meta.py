"""Meta tensors: weights without memory, as the hub stores them and as prepared ones are loaded.

Source: the hub's files of XiaomiMiMo/MiMo-V2-Flash, and of the family where a layout says so.
MiMo-V2-Flash: 311.86 GB, and 1.19 GB of three MTP heads.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.load import Reader
from mimo_v2_flash.checkpoint.param_specs import ParamSpec
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.safetensors_file import READABLE, TensorInfo, dtype_name
from mimo_v2_flash.checkpoint.source import Checkpoint
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.plan import OutputTensor, plan_conversion
from mimo_v2_flash.quantization import HUB_FORMAT, get_format

__all__ = ["NUM_MTP_HEADS", "hub_tensors", "meta_model", "meta_weights", "one_of_each_layer"]

NUM_MTP_HEADS = 3
"""MTP heads of the hub's checkpoints; no config.json says how many."""


def hub_tensors(
    config: MiMoConfig, layout: HubLayout = SPLIT, *, mtp_heads: int = 0
) -> dict[str, TensorInfo]:
    """Return the TensorInfo of every tensor of `config` in files of `layout`, by name: with scales.

    File names are empty, and each tensor begins at byte 0.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    layout : HubLayout
        How files store weights.
    mtp_heads : int
        Number of MTP heads.
    """
    params = param_specs.all_params(config, fused=layout.fused, mtp_heads=mtp_heads)
    return dict(_stored(params, config, layout))


def meta_weights(
    config: MiMoConfig, dtype: str, mtp_heads: int = 0, layout: HubLayout = SPLIT
) -> ModelWeights:
    """Return meta tensors of what `load_weights` returns of `config`, prepared as `dtype`.

    All elements of an array are one element in memory; only copies of them take memory.

    Parameters
    ----------
    config : MiMoConfig
        The model.
    dtype : str
        A key of `STORED`; the hub's format is as the hub stores them.
    mtp_heads : int
        Number of MTP heads.
    layout : HubLayout
        How the hub's files store them.
    """
    params = list(param_specs.all_params(config, fused=layout.fused, mtp_heads=mtp_heads))
    loaded = layout._replace(router_dtype="F32")
    infos = hub_tensors(config, loaded, mtp_heads=mtp_heads)
    plan = plan_conversion(config, params, infos, Encoding(dtype, "cpu"))
    tensors = _MetaCheckpoint(plan.outputs)
    experts = tuple(range(config.n_routed_experts))
    return Reader(tensors, plan.formats, config, experts).model(mtp_heads)


def meta_model(
    config: MiMoConfig, dtype: str, mtp_heads: int = 0, layout: HubLayout = SPLIT
) -> ModelWeights:
    """Return `meta_weights` of all layers, of which those of a kind are the same arrays.

    Parameters
    ----------
    config
        The architecture.
    dtype
        The format or dtype of weights.
    mtp_heads
        Number of MTP heads.
    layout
        How the hub stores the weights.
    """
    few, kinds = one_of_each_layer(config)
    weights = meta_weights(few, dtype, mtp_heads, layout)
    return weights._replace(layers=tuple(weights.layers[kind] for kind in kinds))


def one_of_each_layer(config: MiMoConfig) -> tuple[MiMoConfig, tuple[int, ...]]:
    """Return `config` with one layer of each kind, and for every layer the index of its kind."""
    kinds = list(zip(config.hybrid_layer_pattern, config.moe_layer_freq, strict=True))
    distinct = list(dict.fromkeys(kinds))
    sliding, sparse = zip(*distinct, strict=True)
    few = replace(
        config,
        num_hidden_layers=len(distinct),
        hybrid_layer_pattern=sliding,
        moe_layer_freq=sparse,
    )
    return few, tuple(map(distinct.index, kinds))


class _MetaCheckpoint(Checkpoint):
    """A checkpoint of ones: each tensor is one element, broadcast to the tensor's shape."""

    def __init__(self, outputs: list[OutputTensor]) -> None:
        super().__init__({output.name: Path() for output in outputs})
        self._outputs = {output.name: output for output in outputs}

    def __getitem__(self, name: str) -> np.ndarray:
        output = self._outputs[name]
        return np.broadcast_to(np.ones((), READABLE[output.dtype]), output.shape)


def _stored(
    params: Iterator[ParamSpec], config: MiMoConfig, layout: HubLayout
) -> Iterator[tuple[str, TensorInfo]]:
    crossing = _crossing_keys(config)
    for name, shape in params:
        form = param_specs.hub_format(name, layout)
        if form is None:
            yield name, TensorInfo.new(param_specs.hub_dtype(name, layout), shape)
            continue
        # Each tensor-parallel rank quantized its rows by itself.
        by_rank = name in crossing or name.endswith(param_specs.FUSED)
        shapes = form.stored_shapes(shape, config.num_key_value_heads if by_rank else 1)
        names = form.tensor_names(name)
        for field, _, stored, _, file_dtype in form.tensors:
            yield names[field], TensorInfo.new(file_dtype or dtype_name(stored), shapes[field])


def _crossing_keys(config: MiMoConfig) -> set[str]:
    """Return the names of the k weights whose last scale row covers rows of v too."""
    form = get_format(HUB_FORMAT)
    layers = (
        param_specs.projections(f"model.layers.{index}", config, spec)
        for index, spec in enumerate(config.layers)
    )
    return {layer.k for layer in layers if form.joins_heads(layer.heads, layer.ranks)}
