"""Feed-forward layers, dense and mixture of experts, with one signature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights, MoEWeights
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.dense_ffn import dense_ffn
from mimo_v2_flash.kernels.moe_block import Dispatcher, moe_block
from mimo_v2_flash.parallel import Group

__all__ = ["Dense", "FeedForward", "MixtureOfExperts", "RankIds"]


class RankIds(NamedTuple):
    """Rank numbers as int32 tensors of shape (1,), so that one program serves every rank."""

    tensor_rank_1: Any
    expert_rank_1: Any


class FeedForward(Protocol):
    """Feed-forward layer: protocol of `Dense` and `MixtureOfExperts`.

    Every rank of the tensor group passes the same tokens, x_ND. `dispatcher` moves tokens to their
    experts and back; `local_tokens` is how many of the tokens each rank dispatches. `overflow_1`
    counts what exceeds the dispatcher's capacity, on all ranks of the expert group.
    """

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank_ids: RankIds,
        weights: Any,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return (y_ND, overflow_1)."""


@dataclass(frozen=True)
class Dense:
    """Dense gated feed-forward, tensor parallel over its width.

    Parameters
    ----------
    token_block
        The maximum number of tokens that are computed together.
    tensor_group
        The ranks that the feed-forward width is split over.
    """

    token_block: int
    tensor_group: Group

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank_ids: RankIds,
        weights: DenseWeights,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return (y_ND, overflow_1): the output of every token, and 0."""
        overflow_1 = ops.full(x_ND, (1,), 0.0, np.float32)
        if not x_ND.shape[0]:  # no rank of the tensor group has tokens: none enters the all_reduce
            return x_ND, overflow_1
        partial_ND = dense_ffn(x_ND, *weights, token_block=self.token_block)
        return self.tensor_group.all_reduce(partial_ND).astype(x_ND.dtype), overflow_1


@dataclass(frozen=True)
class MixtureOfExperts:
    """Mixture of experts, expert parallel: each rank of the tensor group dispatches its own tokens.

    Parameters
    ----------
    experts_per_token, scaling
        How many experts a token chooses, and what their routing weights sum to.
    expert_group
        The ranks that the experts are split over.
    tensor_group
        The ranks that hold the same tokens; each dispatches a different part of them.
    expert_fn
        Computes this rank's experts on their tokens: `grouped_experts.grouped_experts` in eager
        mode, `kernels.moe_expert.capacity_experts` in static mode.
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
        rank_ids: RankIds,
        weights: MoEWeights,
        *,
        dispatcher: Dispatcher,
        local_tokens: int,
    ) -> Any:
        """Return (y_ND, overflow_1): every token's weighted sum over its experts; overflow."""

        def expert_fn(x_ND: Any, weight_NA: Any, expert_NA: Any, **options: int) -> Any:
            return self.expert_fn(x_ND, weight_NA, expert_NA, weights.experts, **options)

        y_nD, overflow_1 = moe_block(
            *self._local_tokens(x_ND, position_N, rank_ids.tensor_rank_1, local_tokens),
            weights.w_router_ED,
            weights.bias_E,
            rank_ids.expert_rank_1,
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
        """Return the tokens and positions that this rank dispatches, padded to `local_tokens`."""
        (N, D), P = x_ND.shape, self.tensor_group.size
        if local_tokens * P > N:
            padding = (local_tokens * P - N, D)
            x_ND = np.concatenate([x_ND, ops.full(x_ND, padding, 0.0, x_ND.dtype)], axis=0)
            padding_position_N = ops.full(x_ND, padding[:1], -1, np.int32)
            position_N = np.concatenate([position_N, padding_position_N], axis=0)
        if P == 1:
            return x_ND, position_N
        index_n = rank_1 * np.int32(local_tokens) + ops.constant(
            x_ND, np.arange(local_tokens, dtype=np.int32)
        )
        return np.take(x_ND, index_n, axis=0), np.take(position_N, index_n, axis=0)
