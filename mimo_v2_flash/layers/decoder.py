"""A decoder layer: attention, then feed-forward, each normalised before and added to the stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.groups import Group
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.weights.records import DecoderWeights

from .attention import Attention, Step
from .feed_forward import Dense, FeedForward, MixtureOfExperts
from .head_groups import look_by_heads
from .token_groups import grouped_experts

__all__ = ["Decoder"]

QUERY_BLOCK = 128
TOKEN_BLOCK = 512


@dataclass(frozen=True)
class Decoder:
    """One layer; `build` is the only place where its kind is chosen."""

    attention: Attention
    feed_forward: FeedForward
    norm_epsilon: float

    @classmethod
    def build(cls, spec: LayerSpec, heads: Group, experts: Group) -> "Decoder":
        """Return the layer that `spec` describes, for a host."""
        mixture = MixtureOfExperts(
            spec.experts_per_token,
            spec.routed_scaling_factor,
            experts,
            exchange="all_gather",
            slots=0,
            answer=grouped_experts,
        )
        return cls(
            Attention(spec.attention, heads, QUERY_BLOCK, look_by_heads),
            mixture if spec.experts else Dense(TOKEN_BLOCK),
            spec.norm_epsilon,
        )

    def __call__(
        self,
        x_BTD: Any,
        step: Step,
        rank_1: Any,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        filled: int,
    ) -> Any:
        """Return the stream after this layer, `x_BTD`, and write the tokens into `cache`."""
        B, T, D = x_BTD.shape
        y_BTD = rmsnorm(x_BTD, weights.attention_norm_D, epsilon=self.norm_epsilon)
        x_BTD = x_BTD + self.attention(y_BTD, step, cache, weights.attention, filled=filled)
        y_BTD = rmsnorm(x_BTD, weights.feed_forward_norm_D, epsilon=self.norm_epsilon)
        y_ND = self.feed_forward(
            np.reshape(y_BTD, (B * T, D)),
            np.reshape(step.position_BT, (B * T,)),
            rank_1,
            weights.feed_forward,
        )
        return x_BTD + np.reshape(y_ND, (B, T, D))
