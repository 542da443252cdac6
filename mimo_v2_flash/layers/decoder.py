"""Decoder layer: attention and feed-forward blocks, each with pre-norm and residual connection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mimo_v2_flash.checkpoint.params import AttentionWeights, DecoderWeights
from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.parallel import ALONE, Group

from .attention import Attention
from .execution_mode import EXECUTION_MODES, ExecutionMode
from .feed_forward import Dense, FeedForward, MixtureOfExperts, RankIds
from .forward_batch import AttentionMetadata

__all__ = ["AttentionBlock", "DecoderLayer", "FeedForwardBlock"]

QUERY_BLOCK = 128
TOKEN_BLOCK = 512


@dataclass(frozen=True)
class AttentionBlock:
    """Attention block of a decoder layer: pre-norm, attention, residual; it writes the KV cache."""

    attention: Attention
    norm_epsilon: float
    norm: Callable[..., Any] = rmsnorm

    def __call__(
        self,
        x_ND: Any,
        metadata: AttentionMetadata,
        cache: KVCache,
        norm_D: Any,
        weights: AttentionWeights,
    ) -> Any:
        """Return the hidden states with the attention output added, `x_ND`."""
        y_ND = self.norm(x_ND, norm_D, epsilon=self.norm_epsilon)
        return x_ND + self.attention(y_ND, metadata, cache, weights)


@dataclass(frozen=True)
class FeedForwardBlock:
    """Feed-forward block of a decoder layer: pre-norm, feed-forward, residual.

    It has no side effects: after an overflow it can run again.
    """

    feed_forward: FeedForward
    norm_epsilon: float
    overflow_group: Group = ALONE
    norm: Callable[..., Any] = rmsnorm

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank_ids: RankIds,
        norm_D: Any,
        weights: Any,
        *,
        dispatcher: Dispatcher,
    ) -> tuple[Any, Any]:
        """Return (y_ND, overflow_1): the hidden states, and the overflow count of all ranks."""
        y_ND, overflow_1 = self.forward_local(
            x_ND, position_N, rank_ids, norm_D, weights, dispatcher=dispatcher
        )
        return y_ND, self.overflow_group.all_reduce(overflow_1)

    def forward_local(
        self,
        x_ND: Any,
        position_N: Any,
        rank_ids: RankIds,
        norm_D: Any,
        weights: Any,
        *,
        dispatcher: Dispatcher,
    ) -> tuple[Any, Any]:
        """Return (y_ND, overflow_1) with the overflow of the expert group alone.

        Parameters
        ----------
        x_ND : array
            Hidden states.
        position_N : array of int32
            Positions of the tokens; -1 is padding.
        rank_ids : RankIds
            This rank in its groups, as data.
        norm_D : array
            Weight of the norm.
        weights : record
            Weights of the feed-forward.
        dispatcher : Dispatcher
            How tokens reach their experts.
        """
        y_ND = self.norm(x_ND, norm_D, epsilon=self.norm_epsilon)
        y_ND, overflow_1 = self.feed_forward(
            y_ND, position_N, rank_ids, weights, dispatcher=dispatcher
        )
        return x_ND + y_ND, overflow_1


@dataclass(frozen=True)
class DecoderLayer:
    """Decoder layer; `build` alone selects the dense or the mixture-of-experts feed-forward.

    The layer is one program. Where an expert's capacity may overflow, its two blocks are programs,
    since the feed-forward block alone may run again.
    """

    attention_block: AttentionBlock
    feed_forward_block: FeedForwardBlock

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

        Parameters
        ----------
        spec : LayerSpec
            Numbers of the layer.
        tensor_group, expert_group, overflow_group : Group
            The groups of the ranks.
        mode : ExecutionMode
            The execution mode.
        """
        attention = Attention(
            spec.attention, tensor_group, QUERY_BLOCK, mode.attend, rotate=mode.rotate
        )
        feed_forward: FeedForward = Dense(TOKEN_BLOCK, tensor_group)
        if spec.num_experts:
            feed_forward = MixtureOfExperts(
                experts_per_token=spec.experts_per_token,
                scaling=spec.routed_scaling_factor,
                expert_group=expert_group,
                tensor_group=tensor_group,
                expert_fn=mode.expert_fn,
                split_tokens=mode.split_tokens,
                router=mode.router,
            )
        return cls(
            AttentionBlock(attention, spec.norm_epsilon, mode.norm),
            FeedForwardBlock(feed_forward, spec.norm_epsilon, overflow_group, mode.norm),
        )

    def __call__(
        self,
        x_ND: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        dispatcher: Dispatcher,
    ) -> Any:
        """Return the hidden states after this layer, `x_ND`, and write the tokens into `cache`.

        The dispatcher must have capacity for all tokens: overflow is not computed again.
        """
        x_ND = self.attention_block(
            x_ND, metadata, cache, weights.attention_norm_D, weights.attention
        )
        return self.feed_forward_block.forward_local(
            x_ND,
            metadata.position_N,
            rank_ids,
            weights.feed_forward_norm_D,
            weights.feed_forward,
            dispatcher=dispatcher,
        )[0]
