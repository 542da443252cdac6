"""The layout of weights for compiled programs: stacked experts, formats as the device has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
    MTPWeights,
)
from mimo_v2_flash.quantization import QuantizedTensor

__all__ = ["to_device_layout"]


def to_device_layout(weights: ModelWeights) -> ModelWeights:
    """Return weights whose arrays can be the inputs of compiled programs.

    Experts of one array each are copied into a stack; `QuantizedTensor.to_device_layout` lays out
    a weight of any format. A quantized embedding, of which programs look up rows, is dequantized.
    """
    embedding_VD = weights.embedding_VD
    if isinstance(embedding_VD, QuantizedTensor):
        embedding_VD = embedding_VD.dequantize()
    return weights._replace(
        embedding_VD=embedding_VD,
        layers=tuple(map(_layer, weights.layers)),
        w_logits_VD=_laid_out(weights.w_logits_VD),
        mtp=tuple(map(_mtp_head, weights.mtp)),
    )


def _mtp_head(head: MTPWeights) -> MTPWeights:
    return head._replace(w_eh_DI=_laid_out(head.w_eh_DI), layer=_layer(head.layer))


def _layer(layer: DecoderWeights) -> DecoderWeights:
    feed_forward = layer.feed_forward
    if isinstance(feed_forward, MoEWeights):
        stacks = ExpertWeights(*map(_stack, feed_forward.experts.columns))
        feed_forward = feed_forward._replace(experts=stacks)
    else:
        feed_forward = DenseWeights(*map(_laid_out, feed_forward))
    attention = AttentionWeights(*map(_laid_out, layer.attention))
    return layer._replace(attention=attention, feed_forward=feed_forward)


def _stack(experts: Sequence[Any]) -> Any:
    if not isinstance(experts, tuple):
        return _laid_out(experts)
    weights = [_laid_out(expert) for expert in experts]
    first = weights[0]
    return first.stack(weights) if isinstance(first, QuantizedTensor) else np.stack(weights)


def _laid_out(weight: Any) -> Any:
    return weight.to_device_layout() if isinstance(weight, QuantizedTensor) else weight
