"""Meta tensors: weights without memory, as the hub stores them and as prepared ones are loaded.

Source: the hub's files of XiaomiMiMo/MiMo-V2-Flash, and of MiMo-V2.5 where `fused`. MiMo-V2-Flash:
311.86 GB, and 1.19 GB of MTP weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.fp8 import crossing_keys
from mimo_v2_flash.checkpoint.load import Reader
from mimo_v2_flash.checkpoint.param_specs import ParamSpec
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, TensorInfo
from mimo_v2_flash.checkpoint.source import Checkpoint
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization import find_format
from mimo_v2_flash.quantization.fp8 import BLOCK

from .encoding import Encoding
from .plan import OutputTensor, plan_conversion

__all__ = ["hub_tensors", "meta_weights", "mtp_tensors", "one_of_each_layer"]

NUM_MTP_LAYERS = 3  # no config.json says how many


def hub_tensors(config: MiMoConfig, *, fused: bool = False) -> dict[str, TensorInfo]:
    """Return the TensorInfo of every tensor of `config` by name: with scales, without MTP weights.

    File names are empty, and each tensor begins at byte 0.
    """
    return dict(_stored(param_specs.all_params(config, fused=fused), config))


def mtp_tensors(config: MiMoConfig) -> dict[str, TensorInfo]:
    """Return the TensorInfo of every tensor of the MTP layers by name."""
    prefixes = (f"{param_specs.MTP_PREFIX}layers.{index}" for index in range(NUM_MTP_LAYERS))
    params = (param for prefix in prefixes for param in param_specs.mtp(prefix, config))
    return dict(_stored(params, config))


def meta_weights(config: MiMoConfig, dtype: str) -> ModelWeights:
    """Return meta tensors of what `load_weights` returns of `config`, prepared as `dtype`.

    All elements of an array are one element in memory; only copies of them take memory.

    Parameters
    ----------
    config : MiMoConfig
        The model.
    dtype : str
        A key of `encoding.STORED`: "fp8" is as the hub stores them.
    """
    params = list(param_specs.all_params(config))
    plan = plan_conversion(config, params, hub_tensors(config), Encoding(dtype, "cpu"))
    tensors = _MetaCheckpoint(plan.outputs)
    formats = {name: form for name, _ in params if (form := find_format(tensors, name))}
    return Reader(tensors, formats, config, tuple(range(config.n_routed_experts))).model()


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
        return np.broadcast_to(np.ones((), DTYPES[output.dtype]), output.shape)


def _stored(params: Iterator[ParamSpec], config: MiMoConfig) -> Iterator[tuple[str, TensorInfo]]:
    crossing = crossing_keys(config)
    for name, shape in params:
        dtype = param_specs.stored_dtype(name)
        yield name, _tensor_info(dtype, shape)
        if dtype == "F8_E4M3":
            # Scale rows begin anew on each tensor-parallel rank that quantised the weight.
            by_rank = name in crossing or name.endswith(param_specs.FUSED)
            ranks = config.num_key_value_heads if by_rank else 1
            grid = ranks * -(-shape[0] // ranks // BLOCK), -(-shape[1] // BLOCK)
            yield name + param_specs.SCALE, _tensor_info("F32", grid)


def _tensor_info(dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo("", dtype, shape, 0, prod(shape) * DTYPES[dtype].itemsize)
