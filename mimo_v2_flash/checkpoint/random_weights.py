"""Random weights of a model, made fast: normal numbers in 256 steps, from one random byte each.

They are stored as in the hub's files: in their formats, bfloat16 and float32. Every weight has a
random generator of its own, so that a rank makes its experts and no others.
"""

import zlib
from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.execution.pytree import tree_map
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec

from . import param_specs
from .load import ModelBuilder
from .param_specs import ParamSpec
from .params import ExpertWeights, ModelWeights
from .subset import shard_weights

__all__ = ["random_weights"]

QUANTILES = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)], np.float32)
BIAS_DEVIATIONS = {"attention_sink_bias": 1.0, "e_score_correction_bias": 0.1}
PORTION = 1 << 26  # random bytes at a time


def random_weights(
    config: MiMoConfig,
    *,
    seed: int,
    made: Callable[[int], object] = int,
    shard_spec: ShardSpec = UNSHARDED,
    mtp_heads: int = 0,
    layout: HubLayout = SPLIT,
) -> ModelWeights:
    """Return random weights of standard deviation `initializer_range`, with so many MTP heads.

    Norms are 1; sinks and selection biases are random, so that they matter. With a `shard_spec`,
    the weights are this part of the whole model of the same seed. `made` is called with numbers of
    random values, array by array or for parts of an array. Experts are in the `layout`'s format;
    q, k and v are never fused.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    seed : int
        Seed of the random numbers.
    made : callable
        Called with numbers of random values that were made.
    shard_spec : ShardSpec
        The part of the whole model that is made.
    mtp_heads : int
        Number of MTP heads.
    layout : HubLayout
        How experts are stored.
    """
    builder = _Initializer(config, seed, made, shard_spec, layout)
    weights = shard_weights(builder.model(mtp_heads), config, shard_spec)
    return tree_map(_copy_view, weights)


class _Initializer(ModelBuilder):
    """Maker of the random weights of one seed: whole layers, but only one shard's experts."""

    def __init__(
        self,
        config: MiMoConfig,
        seed: int,
        made: Callable[[int], object],
        part: ShardSpec,
        layout: HubLayout,
    ) -> None:
        super().__init__(config, tuple(range(config.n_routed_experts)))
        self._seed, self._made, self._part, self._layout = seed, made, part, layout

    def _matrix(self, param: ParamSpec) -> Any:
        numbers = QUANTILES * np.float32(self._config.initializer_range)
        form = param_specs.hub_format(param.name, self._layout)
        if form is None:
            return self._quantiles(param, numbers.astype(ml_dtypes.bfloat16))
        return form.random(param.shape, numbers, partial(self._quantiles, param))

    def _float32(self, param: ParamSpec) -> np.ndarray:
        if param.name.endswith("norm.weight"):
            return np.ones(param.shape, np.float32)
        kind = param.name.rpartition(".")[2]
        deviation = BIAS_DEVIATIONS.get(kind, self._config.initializer_range)
        self._made(int(np.prod(param.shape)))
        random = self._generator(param)
        return random.standard_normal(param.shape, np.float32) * np.float32(deviation)

    def _local_experts(self, prefix: str, spec: LayerSpec) -> ExpertWeights:
        local = self._part.expert_range(spec.num_experts)
        return ExpertWeights.of(
            map(self._matrix, param_specs.expert(prefix, spec, index))
            if index in local
            else (None, None, None)
            for index in range(spec.num_experts)
        )

    def _quantiles(self, param: ParamSpec, numbers: np.ndarray) -> np.ndarray:
        """Return an array of `param`'s shape, each element one of the 256 `numbers` at random."""
        flat, random = np.empty(int(np.prod(param.shape)), numbers.dtype), self._generator(param)
        for start in range(0, flat.size, PORTION):
            part = flat[start : start + PORTION]
            step = np.frombuffer(random.bytes(part.size), np.uint8)
            np.take(numbers, step, out=part, mode="clip")
            self._made(part.size)
        return flat.reshape(param.shape)

    def _generator(self, param: ParamSpec) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self._seed, zlib.crc32(param.name.encode())]))


def _copy_view(_: str, array: Any) -> Any:
    """Return a copy of an array that is a view of a larger one."""
    base = getattr(array, "base", None)
    return array if base is None or base.nbytes == array.nbytes else array.copy()
