"""Decoder layer: attention and feed-forward blocks, each with pre-norm and residual connection."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import AttentionWeights, DecoderWeights
from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.parallel import ALONE, Group

from .attention import Attention, AttentionMetadata
from .execution_mode import EXECUTION_MODES, ExecutionMode
from .feed_forward import Dense, FeedForward, MixtureOfExperts, RankIds

__all__ = ["AttentionBlock", "DecoderLayer", "FeedForwardBlock"]

QUERY_BLOCK = 128
TOKEN_BLOCK = 512


@dataclass(frozen=True)
class DecoderLayer:
    """Decoder layer; `build` alone selects the dense or the mixture-of-experts feed-forward."""

    attention: Attention
    feed_forward: FeedForward
    norm_epsilon: float
    overflow_group: Group = ALONE

    @classmethod
    def build(
        cls,
        spec: LayerSpec,
        tensor_group: Group,
        expert_group: Group,
        mode: ExecutionMode = EXECUTION_MODES["eager"],
        overflow_group: Group = ALONE,
    ) -> "DecoderLayer":
        """Return the layer that `spec` describes, for an execution mode.

        The ranks of `tensor_group` split the heads and hold the same tokens, the ranks of
        `expert_group` split the experts, and the ranks of `overflow_group` sum their
        overflow counts.
        """
        routing = spec.experts_per_token, spec.routed_scaling_factor
        mixture = MixtureOfExperts(*routing, expert_group, tensor_group, mode.expert_fn)
        return cls(
            Attention(spec.attention, tensor_group, QUERY_BLOCK, mode.attend),
            mixture if spec.num_experts else Dense(TOKEN_BLOCK, tensor_group),
            spec.norm_epsilon,
            overflow_group,
        )

    def __call__(
        self,
        x_BTD: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        kv_length: int,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return the hidden states after this layer, `x_BTD`, and write the tokens into `cache`.

        `kv_length` goes to the attention, `dispatcher` and `local_tokens` to the feed-forward. The
        dispatcher must have capacity for all tokens: overflow is not computed again.
        """
        norm_D, attention_weights, *feed_forward_weights = weights
        x_BTD = self.attention_block(
            x_BTD, metadata, cache, norm_D, attention_weights, kv_length=kv_length
        )
        dispatch_options: dict[str, Any] = {"dispatcher": dispatcher, "local_tokens": local_tokens}
        return self.feed_forward_block.forward_local(
            x_BTD, metadata.position_BT, rank_ids, *feed_forward_weights, **dispatch_options
        )[1]

    @property
    def attention_block(self) -> "AttentionBlock":
        """The layer's attention block."""
        return AttentionBlock(self.attention, self.norm_epsilon)

    @property
    def feed_forward_block(self) -> "FeedForwardBlock":
        """The layer's feed-forward block; it may run again after an overflow."""
        return FeedForwardBlock(self.feed_forward, self.norm_epsilon, self.overflow_group)


@dataclass(frozen=True)
class AttentionBlock:
    """Attention block of a decoder layer: pre-norm, attention, residual; it writes the KV cache."""

    attention: Attention
    norm_epsilon: float

    def __call__(
        self,
        x_BTD: Any,
        metadata: AttentionMetadata,
        cache: KVCache,
        norm_D: Any,
        weights: AttentionWeights,
        *,
        kv_length: int,
    ) -> Any:
        """Return the hidden states with the attention output added, `x_BTD`."""
        y_BTD = rmsnorm(x_BTD, norm_D, epsilon=self.norm_epsilon)
        return x_BTD + self.attention(y_BTD, metadata, cache, weights, kv_length=kv_length)


@dataclass(frozen=True)
class FeedForwardBlock:
    """Feed-forward block of a decoder layer: pre-norm, feed-forward, residual; no side effects."""

    feed_forward: FeedForward
    norm_epsilon: float
    overflow_group: Group

    def __call__(
        self,
        x_BTD: Any,
        position_BT: Any,
        rank_ids: RankIds,
        norm_D: Any,
        weights: Any,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> tuple[Any, Any]:
        """Return (overflow_1, y_BTD): the overflow count of all ranks, and the hidden states."""
        overflow_1, y_BTD = self.forward_local(
            x_BTD,
            position_BT,
            rank_ids,
            norm_D,
            weights,
            dispatcher=dispatcher,
            local_tokens=local_tokens,
        )
        return self.overflow_group.all_reduce(overflow_1), y_BTD

    def forward_local(
        self,
        x_BTD: Any,
        position_BT: Any,
        rank_ids: RankIds,
        norm_D: Any,
        weights: Any,
        **dispatch_options: Any,
    ) -> tuple[Any, Any]:
        """Return (overflow_1, y_BTD) with the overflow of the expert group alone."""
        B, T, D = x_BTD.shape
        y_BTD = rmsnorm(x_BTD, norm_D, epsilon=self.norm_epsilon)
        tokens = np.reshape(y_BTD, (B * T, D)), np.reshape(position_BT, (B * T,))
        y_ND, overflow_1 = self.feed_forward(*tokens, rank_ids, weights, **dispatch_options)
        return overflow_1, x_BTD + np.reshape(y_ND, (B, T, D))
