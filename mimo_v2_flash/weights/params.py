"""The weights of every layer: names, axes and order, in one place.

A matrix is `[out, in]`, float32, bfloat16 or `BlockScaled`; everything else is float32. A layer's
experts are whatever gives expert e by `[e]`: a stack, or a tuple of one array per expert.
"""

import hashlib
from typing import Any, NamedTuple

from mimo_v2_flash.kernels.block_scale import BlockScaled
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec

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
    """Projections of the heads that live here; `sink_H` is NO_SINK where a head has none."""

    w_q_OD: Any
    w_k_OD: Any
    w_v_OD: Any
    w_o_DI: Any
    sink_H: Any


class DenseWeights(NamedTuple):
    """One gated feed-forward network."""

    w_gate_FD: Any
    w_up_FD: Any
    w_down_DF: Any


class ExpertWeights(NamedTuple):
    """The experts that live here."""

    w_gate_eFD: Any
    w_up_eFD: Any
    w_down_eDF: Any


class MoEWeights(NamedTuple):
    """The whole router, and the experts that live here."""

    w_router_ED: Any
    bias_E: Any
    experts: ExpertWeights


class DecoderWeights(NamedTuple):
    """One layer."""

    attention_norm_D: Any
    attention: AttentionWeights
    feed_forward_norm_D: Any
    feed_forward: DenseWeights | MoEWeights


class ModelWeights(NamedTuple):
    """Everything but the predictors.

    `expert_ids` are the checkpoint's, of every expert that a router knows; `shard_spec` says which of
    them, and which heads, are here.
    """

    embedding_VD: Any
    layers: tuple[DecoderWeights, ...]
    final_norm_D: Any
    w_logits_VD: Any
    expert_ids: tuple[int, ...]
    shard_spec: ShardSpec = UNSHARDED


def nbytes(weights: Any) -> int:
    """Return the bytes of every array in a record, as stored."""
    if isinstance(weights, BlockScaled):
        return int(weights.code.nbytes + weights.scale.nbytes)
    if isinstance(weights, tuple):
        return sum(map(nbytes, weights))
    return int(getattr(weights, "nbytes", 0))


def fingerprint(weights: ModelWeights) -> str:
    """Return what tells a checkpoint from another one: a digest of what every rank has of it."""
    digest = hashlib.blake2b(repr(weights.expert_ids).encode(), digest_size=8)
    digest.update(weights.final_norm_D.tobytes())
    for layer in weights.layers:
        digest.update(layer.attention_norm_D.tobytes())
        digest.update(layer.feed_forward_norm_D.tobytes())
        if isinstance(layer.feed_forward, MoEWeights):
            digest.update(layer.feed_forward.bias_E.tobytes())
    return digest.hexdigest()
