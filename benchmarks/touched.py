"""Bytes of weights that a decoding step reads, and floating-point operations of a prefill."""

import numpy as np

from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.params import (
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
    nbytes,
)
from mimo_v2_flash.config import AttentionSpec, LayerSpec, MiMoConfig

from .implementations import Ours

__all__ = ["bytes_of_step", "flops_of_prefill"]


class TrackedExperts:
    """A sequence of experts that records which of them are read."""

    def __init__(self, experts: ExpertWeights) -> None:
        self.experts, self.accessed = experts, set()

    def __len__(self) -> int:
        return len(self.experts)

    def __getitem__(self, expert: int) -> DenseWeights:
        self.accessed.add(int(expert))
        return self.experts[expert]

    def bytes_read(self) -> int:
        """Return the bytes of the experts read since the last call, each counted once."""
        read = sum(nbytes(self.experts[expert]) for expert in self.accessed)
        self.accessed = set()
        return read


def bytes_of_step(ours: Ours, token_NB: np.ndarray) -> float:
    """Return the bytes of weights, as stored, that a decoding step reads, on average.

    It reads all weights but the embedding and the experts that no row chose.
    """
    weights = ours.model.weights
    ours.model.weights, tracked = _track(weights)
    read = 0
    for token_B in token_NB:
        ours.decode(token_B)
        read += sum(experts.bytes_read() for experts in tracked)
    ours.model.weights = weights
    expert_bytes = sum(nbytes(layer.experts) for layer in tracked)
    dense_bytes = nbytes(weights) - nbytes(weights.embedding_VD) - expert_bytes
    return dense_bytes + read / len(token_NB)


def _track(weights: ModelWeights) -> tuple[ModelWeights, list[TrackedExperts]]:
    tracked: list[TrackedExperts] = []

    def track_layer(layer: DecoderWeights) -> DecoderWeights:
        moe = layer.feed_forward
        if not isinstance(moe, MoEWeights):
            return layer
        tracked.append(TrackedExperts(moe.experts))
        return layer._replace(feed_forward=moe._replace(experts=tracked[-1]))

    return weights._replace(layers=tuple(map(track_layer, weights.layers))), tracked


def flops_of_prefill(config: MiMoConfig, tokens: int) -> int:
    """Return the floating-point operations of the matmuls of a prefill of `tokens`.

    Attention counts the keys that the mask admits; logits are those of the last token.
    """
    total = config.vocab_size * config.hidden_size
    for spec in config.layers:
        total += tokens * _active_weights(spec) + _attention_products(spec.attention, tokens)
    return 2 * total


def _active_weights(spec: LayerSpec) -> int:
    """Return how many weights of a layer a token is multiplied by."""
    matrices = [*param_specs.attention("", spec.attention, spec.hidden_size)[:4]]
    if spec.num_experts:
        matrices += [
            param_specs.router("", spec)[0],
            *param_specs.expert("", spec, 0) * spec.experts_per_token,
        ]
    else:
        matrices += param_specs.dense("", spec)
    return sum(int(np.prod(matrix.shape)) for matrix in matrices)


def _attention_products(spec: AttentionSpec, tokens: int) -> int:
    pairs = int(np.minimum(np.arange(1, tokens + 1), spec.window).sum())
    return pairs * spec.num_heads * (spec.head_dim + spec.v_head_dim)
