"""The two feed-forwards, dense and mixture of experts, with one signature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.dense_ffn import dense_ffn
from mimo_v2_flash.kernels.moe_block import Dispatcher, moe_block
from mimo_v2_flash.parallel import Group
from mimo_v2_flash.weights.params import DenseWeights, MoEWeights

__all__ = ["Dense", "FeedForward", "MixtureOfExperts", "RankIds"]


class RankIds(NamedTuple):
    """Which rank this is, as data: int32 of shape (1,), so that one program serves every rank."""

    tensor_rank_1: Any
    expert_rank_1: Any


class FeedForward(Protocol):
    """From tokens x_ND, their positions, this rank's numbers and weights to answers y_ND.

    The tokens are those of all ranks that share the heads, the same on each of them. `dispatcher` is
    how tokens reach their experts, `local_tokens` how many of the tokens each rank takes there.
    `overflow_1` counts what the exchange has no room for, on all ranks that share the experts.
    """

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank: RankIds,
        weights: Any,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return (y_ND, overflow_1)."""


@dataclass(frozen=True)
class Dense:
    """One network for every token.

    Parameters
    ----------
    token_block
        Tokens that go through it together, at most.
    heads
        The ranks that the network's width is split over, as heads are.
    """

    token_block: int
    tensor_group: Group

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank: RankIds,
        weights: DenseWeights,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return the network's answer to every token, and that nothing overflowed."""
        none_1 = ops.full(x_ND, (1,), 0.0, np.float32)
        if not x_ND.shape[0]:  # for none of these ranks there is anything to do
            return x_ND, none_1
        share_ND = dense_ffn(x_ND, *weights, token_block=self.token_block)
        return self.tensor_group.all_reduce(share_ND).astype(x_ND.dtype), none_1


@dataclass(frozen=True)
class MixtureOfExperts:
    """A few of many networks for each token.

    Parameters
    ----------
    experts_per_token, scaling
        How many a token chooses, and what their weights sum to.
    experts
        The ranks that the experts are split over.
    heads
        The ranks that have the same tokens; each takes a share of them to the experts.
    answer
        How a rank's experts see their tokens: `grouped_experts.grouped_experts` on a host,
        `kernels.moe_expert.capacity_experts` where shapes are static.
    """

    experts_per_token: int
    scaling: float
    expert_group: Group
    tensor_group: Group
    expert_fn: Callable[..., Any]

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank: RankIds,
        weights: MoEWeights,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return every token's experts' answers, weighed and summed, and what overflowed."""

        def expert_fn(x_ND: Any, weight_NA: Any, expert_NA: Any, **options: int) -> Any:
            return self.expert_fn(x_ND, weight_NA, expert_NA, *weights.experts, **options)

        y_nD, overflow_1 = moe_block(
            *self._local_tokens(x_ND, position_N, rank.tensor_rank_1, local_tokens),
            weights.w_router_ED,
            weights.bias_E,
            rank.expert_rank_1,
            expert_fn,
            group=self.expert_group,
            dispatcher=dispatcher,
            experts_per_token=self.experts_per_token,
            scaling=self.scaling,
        )
        y_PnD = self.tensor_group.all_gather(y_nD.astype(x_ND.dtype))
        return np.reshape(y_PnD, (-1, x_ND.shape[1]))[: x_ND.shape[0]], overflow_1

    def _local_tokens(
        self, x_ND: Any, position_N: Any, rank_1: Any, local_tokens: int
    ) -> tuple[Any, Any]:
        """Return this rank's `local_tokens` tokens and their positions, padded where there are too few."""
        (N, D), P = x_ND.shape, self.tensor_group.size
        if local_tokens * P > N:
            padding = (local_tokens * P - N, D)
            x_ND = np.concatenate([x_ND, ops.full(x_ND, padding, 0.0, x_ND.dtype)], axis=0)
            nowhere_N = ops.full(x_ND, padding[:1], -1, np.int32)
            position_N = np.concatenate([position_N, nowhere_N], axis=0)
        if P == 1:
            return x_ND, position_N
        place_n = rank_1 * np.int32(local_tokens) + ops.constant(
            x_ND, np.arange(local_tokens, dtype=np.int32)
        )
        return np.take(x_ND, place_n, axis=0), np.take(position_N, place_n, axis=0)
