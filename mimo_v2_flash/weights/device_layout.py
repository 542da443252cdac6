"""The layout of weights for compiled programs: stacked experts, FP8 as Trainium2's codes."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.quantization.fp8 import BlockScaled

from .encoding import Encoding
from .params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)

__all__ = ["to_device_layout"]

LARGEST_CODE = 0x77
"""The code of 240, the largest number of Trainium2's FP8; the hub's E4M3FN goes on to 448."""


def to_device_layout(weights: ModelWeights) -> ModelWeights:
    """Return weights whose arrays can be the inputs of compiled programs.

    Experts of one array each are copied into a stack. FP8 codes, uint8, become
    `ml_dtypes.float8_e4m3` of the same value, or of half the value with doubled scales.
    """
    return weights._replace(layers=tuple(map(_layer, weights.layers)))


def _layer(layer: DecoderWeights) -> DecoderWeights:
    feed_forward = layer.feed_forward
    if isinstance(feed_forward, MoEWeights):
        stacks = ExpertWeights(*(_stack(column) for column in feed_forward.experts))
        feed_forward = feed_forward._replace(experts=stacks)
    else:
        feed_forward = DenseWeights(*map(_to_trainium, feed_forward))
    attention = AttentionWeights(*map(_to_trainium, layer.attention))
    return layer._replace(attention=attention, feed_forward=feed_forward)


def _stack(experts: Sequence[Any]) -> Any:
    if not isinstance(experts, tuple):
        return _to_trainium(experts)
    arrays = [_to_trainium(expert) for expert in experts]
    if not isinstance(arrays[0], BlockScaled):
        return np.stack(arrays)
    codes, scales = np.stack([a.code for a in arrays]), np.stack([a.scale for a in arrays])
    return BlockScaled(codes, scales, arrays[0].block_height)


def _to_trainium(weight: Any) -> Any:
    if not isinstance(weight, BlockScaled) or weight.code.dtype != np.uint8:
        return weight
    code, scale = weight.code, weight.scale
    if np.any(code & np.uint8(0x7F) > LARGEST_CODE):
        code, scale = Encoding("fp8", "trainium2").scaled("an FP8 weight", weight)
    return BlockScaled(code.view(ml_dtypes.float8_e4m3), scale, weight.block_height)
