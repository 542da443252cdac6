"""A decoder layer: attention, then feed-forward, each normalised before and added to the stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.parallel import ALONE, Group
from mimo_v2_flash.weights.params import AttentionWeights, DecoderWeights

from .attention import Attention, AttentionMetadata
from .execution_mode import EXECUTION_MODES, ExecutionMode
from .feed_forward import Dense, FeedForward, MixtureOfExperts, RankIds

__all__ = ["AttentionBlock", "DecoderLayer", "FeedForwardBlock"]

QUERY_BLOCK = 128
TOKEN_BLOCK = 512


@dataclass(frozen=True)
class DecoderLayer:
    """One layer; `build` is the only place where its kind is chosen."""

    attention: Attention
    feed_forward: FeedForward
    norm_epsilon: float
    world: Group = ALONE

    @classmethod
    def build(
        cls,
        spec: LayerSpec,
        tensor_group: Group,
        expert_group: Group,
        form: ExecutionMode = EXECUTION_MODES["eager"],
        world: Group = ALONE,
    ) -> "DecoderLayer":
        """Return the layer that `spec` describes, in `form`.

        The ranks of `tensor_group` share the heads and have the same tokens, those of `expert_group`
        share the experts, and those of `world`
        must know of each other's overflow.
        """
        choice = spec.experts_per_token, spec.routed_scaling_factor
        mixture = MixtureOfExperts(*choice, expert_group, tensor_group, form.expert_fn)
        return cls(
            Attention(spec.attention, tensor_group, QUERY_BLOCK, form.attend),
            mixture if spec.num_experts else Dense(TOKEN_BLOCK, tensor_group),
            spec.norm_epsilon,
            world,
        )

    def __call__(
        self,
        x_BTD: Any,
        metadata: AttentionMetadata,
        rank: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        kv_length: int,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return the stream after this layer, `x_BTD`, and write the tokens into `cache`.

        `kv_length` is attention's, `dispatcher` and `local_tokens` are the feed-forward's. The exchange must
        have room for all tokens.
        """
        norm_D, attention, *network = weights
        x_BTD = self.attend(x_BTD, metadata, cache, norm_D, attention, kv_length=kv_length)
        dispatch_options: dict[str, Any] = {"dispatcher": dispatcher, "local_tokens": local_tokens}
        return self.feed_forward_block.forward_local(
            x_BTD, metadata.position_BT, rank, *network, **dispatch_options
        )[1]

    @property
    def attend(self) -> "AttentionBlock":
        """The first half."""
        return AttentionBlock(self.attention, self.norm_epsilon)

    @property
    def feed_forward_block(self) -> "FeedForwardBlock":
        """The second half, to be run again if anything overflowed."""
        return FeedForwardBlock(self.feed_forward, self.norm_epsilon, self.world)


@dataclass(frozen=True)
class AttentionBlock:
    """The half of a layer that writes its cache."""

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
        """Return the stream with attention added, `x_BTD`."""
        y_BTD = rmsnorm(x_BTD, norm_D, epsilon=self.norm_epsilon)
        return x_BTD + self.attention(y_BTD, metadata, cache, weights, kv_length=kv_length)


@dataclass(frozen=True)
class FeedForwardBlock:
    """The half of a layer that changes nothing but its answer."""

    feed_forward: FeedForward
    norm_epsilon: float
    world: Group

    def __call__(
        self,
        x_BTD: Any,
        position_BT: Any,
        rank: RankIds,
        norm_D: Any,
        weights: Any,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> tuple[Any, Any]:
        """Return (overflow_1, y_BTD): what had no room on all ranks, and the stream."""
        overflow_1, y_BTD = self.forward_local(
            x_BTD,
            position_BT,
            rank,
            norm_D,
            weights,
            dispatcher=dispatcher,
            local_tokens=local_tokens,
        )
        return self.world.all_reduce(overflow_1), y_BTD

    def forward_local(
        self,
        x_BTD: Any,
        position_BT: Any,
        rank: RankIds,
        norm_D: Any,
        weights: Any,
        **dispatch_options: Any,
    ) -> tuple[Any, Any]:
        """Return the same without asking all ranks, for exchanges that have room for all."""
        B, T, D = x_BTD.shape
        y_BTD = rmsnorm(x_BTD, norm_D, epsilon=self.norm_epsilon)
        tokens = np.reshape(y_BTD, (B * T, D)), np.reshape(position_BT, (B * T,))
        y_ND, overflow_1 = self.feed_forward(*tokens, rank, weights, **dispatch_options)
        return overflow_1, x_BTD + np.reshape(y_ND, (B, T, D))
