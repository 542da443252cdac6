"""How many bytes of weights a step reads, and how many operations a prompt asks for."""

from typing import Any

import numpy as np

from mimo_v2_flash.config import AttentionSpec, LayerSpec, MiMoConfig
from mimo_v2_flash.weights import param_specs
from mimo_v2_flash.weights.params import (
    DecoderWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
    nbytes,
)

from .contenders import Ours

__all__ = ["bytes_of_step", "flops_of_prefill"]


class Watched:
    """One matrix of every expert, and which of them were asked for."""

    def __init__(self, matrices: Any) -> None:
        self.matrices, self.asked = matrices, set()

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, expert: int) -> Any:
        self.asked.add(int(expert))
        return self.matrices[expert]

    def bytes_read(self) -> int:
        """Return the bytes of what was asked for since the last time, each counted once."""
        read = sum(nbytes(self.matrices[expert]) for expert in self.asked)
        self.asked = set()
        return read


def bytes_of_step(ours: Ours, token_NB: np.ndarray) -> float:
    """Return the bytes of weights, as stored, that a step of decoding reads, on average.

    Everything but the embedding, and of the experts those that some row chose, once.
    """
    whole = ours.model.weights
    ours.model.weights, watched = _watched(whole)
    read = 0
    for token_B in token_NB:
        ours.decode(token_B)
        read += sum(matrices.bytes_read() for matrices in watched)
    ours.model.weights = whole
    of_all_experts = sum(nbytes(tuple(experts.matrices)) for experts in watched)
    always = nbytes(whole) - nbytes(whole.embedding_VD) - of_all_experts
    return always + read / len(token_NB)


def _watched(weights: ModelWeights) -> tuple[ModelWeights, list[Watched]]:
    watched: list[Watched] = []

    def seen(layer: DecoderWeights) -> DecoderWeights:
        mixture = layer.feed_forward
        if not isinstance(mixture, MoEWeights):
            return layer
        own = [Watched(matrices) for matrices in mixture.experts]
        watched.extend(own)
        return layer._replace(feed_forward=mixture._replace(experts=ExpertWeights(*own)))

    return weights._replace(layers=tuple(map(seen, weights.layers))), watched


def flops_of_prefill(config: MiMoConfig, tokens: int) -> int:
    """Return the floating-point operations of matmuls that a prompt of `tokens` asks for.

    Attention counts what a token may see, and logits are those of the last token.
    """
    total = config.vocab_size * config.hidden_size
    for spec in config.layers:
        total += tokens * _weights_of_token(spec) + _products_of_attention(spec.attention, tokens)
    return 2 * total


def _weights_of_token(spec: LayerSpec) -> int:
    """Return the weights that a token is multiplied by."""
    matrices = [*param_specs.attention("", spec.attention, spec.hidden_size)[:4]]
    if spec.num_experts:
        matrices += [
            param_specs.router("", spec)[0],
            *param_specs.expert("", spec, 0) * spec.experts_per_token,
        ]
    else:
        matrices += param_specs.dense("", spec)
    return sum(int(np.prod(matrix.shape)) for matrix in matrices)


def _products_of_attention(spec: AttentionSpec, tokens: int) -> int:
    pairs = int(np.minimum(np.arange(1, tokens + 1), spec.window).sum())
    return pairs * spec.num_heads * (spec.head_dim + spec.v_head_dim)
