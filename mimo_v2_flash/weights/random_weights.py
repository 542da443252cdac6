"""Random weights at true sizes, quickly: normal numbers in 256 steps, one random byte each.

Stored as the hub stores them: FP8 blocks where it has FP8, bfloat16 and float32 elsewhere. Every
weight has a random stream of its own, so that a rank makes its experts and no others.
"""

import zlib
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.kernels.block_scale import BLOCK, FP8_MAX, BlockScaled
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec

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
WIDEST = float(QUANTILES[-1])
CODES = (QUANTILES / WIDEST * FP8_MAX).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
PORTION = 1 << 26  # random bytes at a time


def random_weights(
    config: MiMoConfig,
    *,
    seed: int,
    made: Callable[[int], object] = int,
    shard_spec: ShardSpec = UNSHARDED,
) -> ModelWeights:
    """Return weights of standard deviation `initializer_range`; `made` hears of numbers made.

    Norms are 1; sinks and selection biases are random, so that they matter. A `shard_spec` is that of
    the whole model of this seed.
    """
    return _Maker(config, seed, made, shard_spec).model()


class _Maker:
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
        return _owned(shard_weights(ModelWeights(*ends, ids), self._config, self._shard_spec))

    def _layer(self, index: int, spec: LayerSpec) -> DecoderWeights:
        prefix = f"model.layers.{index}"
        norm_D = np.ones(spec.hidden_size, np.float32)
        attention = self._attention(prefix, spec)
        if spec.num_experts:
            return DecoderWeights(norm_D, attention, norm_D, self._mixture(prefix, spec))
        gate, up, down = (self._float8(weight) for weight in param_specs.dense(prefix, spec))
        return DecoderWeights(norm_D, attention, norm_D, DenseWeights(gate, up, down))

    def _attention(self, prefix: str, spec: LayerSpec) -> AttentionWeights:
        q, k, v, o, *sink = param_specs.attention(prefix, spec.attention, spec.hidden_size)
        heads = spec.attention.num_heads
        return AttentionWeights(
            w_q_OD=self._float8(q),
            w_k_OD=self._float8(k),
            w_v_OD=self._float8(v),
            w_o_DI=self._bfloat16(o),
            sink_H=self._normal(sink[0], 1.0) if sink else np.full(heads, NO_SINK, np.float32),
        )

    def _mixture(self, prefix: str, spec: LayerSpec) -> MoEWeights:
        router, bias = param_specs.router(prefix, spec)
        here = self._shard_spec.expert_range(spec.num_experts)
        experts = [
            tuple(map(self._float8, param_specs.expert(prefix, spec, index)))
            if index in here
            else (None, None, None)
            for index in range(spec.num_experts)
        ]
        columns = zip(*experts, strict=True)
        return MoEWeights(
            self._normal(router, self._config.initializer_range),
            self._normal(bias, 0.1),
            ExpertWeights(*columns),
        )

    def _normal(self, weight: ParamSpec, deviation: float) -> np.ndarray:
        self._made(int(np.prod(weight.shape)))
        random = self._stream(weight)
        return random.standard_normal(weight.shape, np.float32) * np.float32(deviation)

    def _bfloat16(self, weight: ParamSpec) -> np.ndarray:
        numbers = QUANTILES * np.float32(self._config.initializer_range)
        return self._steps(weight, numbers.astype(ml_dtypes.bfloat16))

    def _float8(self, weight: ParamSpec) -> BlockScaled:
        outputs, inputs = weight.shape
        scale = np.float32(self._config.initializer_range * WIDEST / FP8_MAX)
        grid = -(-outputs // BLOCK), -(-inputs // BLOCK)
        return BlockScaled(self._steps(weight, CODES), np.full(grid, scale))

    def _steps(self, weight: ParamSpec, numbers: np.ndarray) -> np.ndarray:
        """Return an array of `weight`'s shape, each element one of the 256 `numbers`."""
        flat, random = np.empty(int(np.prod(weight.shape)), numbers.dtype), self._stream(weight)
        for start in range(0, flat.size, PORTION):
            part = flat[start : start + PORTION]
            step = np.frombuffer(random.bytes(part.size), np.uint8)
            np.take(numbers, step, out=part, mode="clip")
            self._made(part.size)
        return flat.reshape(weight.shape)

    def _stream(self, weight: ParamSpec) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self._seed, zlib.crc32(weight.name.encode())]))


def _owned(weights: Any) -> Any:
    """Return a record whose arrays keep nothing larger in memory than themselves."""
    if isinstance(weights, BlockScaled):
        return BlockScaled(_owned(weights.code), _owned(weights.scale), weights.block_height)
    if isinstance(weights, tuple):
        parts = map(_owned, weights)
        return type(weights)(*parts) if hasattr(weights, "_fields") else tuple(parts)
    base = getattr(weights, "base", None)
    return weights if base is None or base.nbytes == weights.nbytes else weights.copy()
