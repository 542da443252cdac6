"""The model's weights as pytrees: the names, axes and order of every layer's arrays.

A matrix is `[out, in]`, float32, bfloat16 or `BlockScaled`; everything else is float32. A layer's
experts are a sequence of one matrix per expert: a stack, or a tuple.
"""

import hashlib
from typing import Any, NamedTuple

from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization.fp8 import BlockScaled

__all__ = [
    "AttentionWeights",
    "DecoderWeights",
    "DenseWeights",
    "ExpertWeights",
    "MoEWeights",
    "ModelWeights",
    "fingerprint",
    "nbytes",
]


class AttentionWeights(NamedTuple):
    """Attention weights of this shard's heads; `sink_H` is NO_SINK where a head has no sink."""

    w_q_OD: Any
    w_k_OD: Any
    w_v_OD: Any
    w_o_DI: Any
    sink_H: Any


class DenseWeights(NamedTuple):
    """Weights of one dense, gated feed-forward network."""

    w_gate_FD: Any
    w_up_FD: Any
    w_down_DF: Any


class ExpertWeights(NamedTuple):
    """Weights of this shard's experts."""

    w_gate_eFD: Any
    w_up_eFD: Any
    w_down_eDF: Any


class MoEWeights(NamedTuple):
    """Weights of a mixture of experts: the whole router, and this shard's experts."""

    w_router_ED: Any
    bias_E: Any
    experts: ExpertWeights


class DecoderWeights(NamedTuple):
    """Weights of one decoder layer."""

    attention_norm_D: Any
    attention: AttentionWeights
    feed_forward_norm_D: Any
    feed_forward: DenseWeights | MoEWeights


class ModelWeights(NamedTuple):
    """Weights of the whole model, without MTP.

    `expert_ids` are the checkpoint's ids of all experts in the routers; `shard_spec` tells which of
    these experts, and which heads, this shard holds.
    """

    embedding_VD: Any
    layers: tuple[DecoderWeights, ...]
    final_norm_D: Any
    w_logits_VD: Any
    expert_ids: tuple[int, ...]
    shard_spec: ShardSpec = UNSHARDED


def nbytes(weights: Any) -> int:
    """Return the bytes of all arrays of a pytree, as stored."""
    if isinstance(weights, BlockScaled):
        return int(weights.code.nbytes + weights.scale.nbytes)
    if isinstance(weights, tuple):
        return sum(map(nbytes, weights))
    return int(getattr(weights, "nbytes", 0))


def fingerprint(weights: ModelWeights) -> str:
    """Return a digest that tells checkpoints apart, of weights that every rank holds whole."""
    digest = hashlib.blake2b(repr(weights.expert_ids).encode(), digest_size=8)
    digest.update(weights.final_norm_D.tobytes())
    for layer in weights.layers:
        digest.update(layer.attention_norm_D.tobytes())
        digest.update(layer.feed_forward_norm_D.tobytes())
        if isinstance(layer.feed_forward, MoEWeights):
            digest.update(layer.feed_forward.bias_E.tobytes())
    return digest.hexdigest()
