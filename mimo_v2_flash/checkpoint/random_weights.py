"""Random weights of a model, made fast: normal numbers in 256 steps, from one random byte each.

They are stored as the hub's: in its format, bfloat16 and float32. Every weight has a random
generator of its own, so that a rank makes its experts and no others.
"""

import zlib
from collections.abc import Callable
from functools import partial
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.execution.pytree import tree_map
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import QuantizedTensor, get_format

from . import param_specs
from .param_specs import ParamSpec
from .params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)
from .shard_weights import shard_weights

__all__ = ["random_weights"]

QUANTILES = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)], np.float32)
PORTION = 1 << 26  # random bytes at a time


def random_weights(
    config: MiMoConfig,
    *,
    seed: int,
    made: Callable[[int], object] = int,
    shard_spec: ShardSpec = UNSHARDED,
) -> ModelWeights:
    """Return random weights of standard deviation `initializer_range`.

    Norms are 1; sinks and selection biases are random, so that they matter. With a `shard_spec`,
    the weights are this part of the whole model of the same seed. `made` is called with numbers of
    random values, array by array or for parts of an array.
    """
    return _Initializer(config, seed, made, shard_spec).model()


class _Initializer:
    """Maker of the random weights of one seed and one shard."""

    def __init__(
        self, config: MiMoConfig, seed: int, made: Callable[[int], object], shard_spec: ShardSpec
    ) -> None:
        self._config, self._seed, self._made, self._shard_spec = config, seed, made, shard_spec

    def model(self) -> ModelWeights:
        embedding, _, logits = param_specs.embedding_norm_head(self._config)
        norm_D = np.ones(self._config.hidden_size, np.float32)
        layers = tuple(self._layer(index, spec) for index, spec in enumerate(self._config.layers))
        ids = tuple(range(self._config.n_routed_experts))
        ends = self._bfloat16(embedding), layers, norm_D, self._bfloat16(logits)
        weights = shard_weights(ModelWeights(*ends, ids), self._config, self._shard_spec)
        return tree_map(_copy_view, weights)

    def _layer(self, index: int, spec: LayerSpec) -> DecoderWeights:
        prefix = f"model.layers.{index}"
        norm_D = np.ones(spec.hidden_size, np.float32)
        feed_forward = self._mixture if spec.num_experts else self._dense
        attention = self._attention(prefix, spec)
        return DecoderWeights(norm_D, attention, norm_D, feed_forward(prefix, spec))

    def _attention(self, prefix: str, spec: LayerSpec) -> AttentionWeights:
        q, k, v, o, *sink = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        heads = spec.attention.num_heads
        return AttentionWeights(
            w_q_OD=self._quantized(q),
            w_k_OD=self._quantized(k),
            w_v_OD=self._quantized(v),
            w_o_DI=self._bfloat16(o),
            sink_H=self._normal(sink[0], 1.0) if sink else np.full(heads, NO_SINK, np.float32),
        )

    def _dense(self, prefix: str, spec: LayerSpec) -> DenseWeights:
        return DenseWeights(*map(self._quantized, param_specs.dense(prefix, spec)))

    def _mixture(self, prefix: str, spec: LayerSpec) -> MoEWeights:
        router, bias = param_specs.router(prefix, spec)
        local_experts = self._shard_spec.expert_range(spec.num_experts)
        experts = [
            tuple(map(self._quantized, param_specs.expert(prefix, spec, index)))
            if index in local_experts
            else (None, None, None)
            for index in range(spec.num_experts)
        ]
        return MoEWeights(
            self._normal(router, self._config.initializer_range),
            self._normal(bias, 0.1),
            ExpertWeights.of(experts),
        )

    def _normal(self, param: ParamSpec, deviation: float) -> np.ndarray:
        self._made(int(np.prod(param.shape)))
        random = self._generator(param)
        return random.standard_normal(param.shape, np.float32) * np.float32(deviation)

    def _bfloat16(self, param: ParamSpec) -> np.ndarray:
        numbers = QUANTILES * np.float32(self._config.initializer_range)
        return self._quantiles(param, numbers.astype(ml_dtypes.bfloat16))

    def _quantized(self, param: ParamSpec) -> QuantizedTensor:
        numbers = QUANTILES * np.float32(self._config.initializer_range)
        draw = partial(self._quantiles, param)
        return get_format(param_specs.HUB_FORMAT).random(param.shape, numbers, draw)

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
