"""Meta tensors: weights with shapes and dtypes that take no memory, for sharding and counting."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.folder import Checkpoint
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.reader import Reader
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.config import MiMoConfig

from .encoding import Encoding
from .hub_tensors import hub_tensors
from .plan import plan_conversion
from .tasks import OutputTensor

__all__ = ["meta_weights", "one_of_each_layer"]


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
    return Reader(
        _MetaCheckpoint(plan.outputs), config, tuple(range(config.n_routed_experts))
    ).model()


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
    """A checkpoint of zeros: each tensor is one element, broadcast to the tensor's shape."""

    def __init__(self, outputs: list[OutputTensor]) -> None:
        super().__init__({output.name: Path() for output in outputs})
        self._outputs = {output.name: output for output in outputs}

    def __getitem__(self, name: str) -> np.ndarray:
        output = self._outputs[name]
        return np.broadcast_to(np.zeros((), DTYPES[output.dtype]), output.shape)
