"""A decoder layer: attention, then feed-forward, each normalised before and added to the stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.groups import Group
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Exchange
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.weights.records import DecoderWeights

from .attention import Attention, Step
from .feed_forward import Dense, FeedForward, MixtureOfExperts, Rank
from .forms import FORMS, Form

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
    def build(
        cls, spec: LayerSpec, heads: Group, experts: Group, form: Form = FORMS["host"]
    ) -> "Decoder":
        """Return the layer that `spec` describes, in `form`.

        `heads` share the heads, and have the same tokens; `experts` share the experts.
        """
        choice = spec.experts_per_token, spec.routed_scaling_factor
        mixture = MixtureOfExperts(*choice, experts, heads, form.answer)
        return cls(
            Attention(spec.attention, heads, QUERY_BLOCK, form.look),
            mixture if spec.experts else Dense(TOKEN_BLOCK, heads),
            spec.norm_epsilon,
        )

    def __call__(
        self,
        x_BTD: Any,
        step: Step,
        rank: Rank,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        filled: int,
        exchange: Exchange,
        own: int,
    ) -> Any:
        """Return the stream after this layer, `x_BTD`, and write the tokens into `cache`.

        `filled` is attention's, `exchange` and `own` are the feed-forward's.
        """
        B, T, D = x_BTD.shape
        y_BTD = rmsnorm(x_BTD, weights.attention_norm_D, epsilon=self.norm_epsilon)
        x_BTD = x_BTD + self.attention(y_BTD, step, cache, weights.attention, filled=filled)
        y_BTD = rmsnorm(x_BTD, weights.feed_forward_norm_D, epsilon=self.norm_epsilon)
        y_ND = self.feed_forward(
            np.reshape(y_BTD, (B * T, D)),
            np.reshape(step.position_BT, (B * T,)),
            rank,
            weights.feed_forward,
            exchange=exchange,
            own=own,
        )
        return x_BTD + np.reshape(y_ND, (B, T, D))
