"""Feed-forward layers, dense and mixture of experts, with one signature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights, MoEWeights
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.dense_ffn import dense_ffn
from mimo_v2_flash.kernels.moe_block import Dispatcher, moe_block
from mimo_v2_flash.kernels.moe_router import moe_router
from mimo_v2_flash.parallel import Group

__all__ = ["Dense", "FeedForward", "MixtureOfExperts", "RankIds"]


class RankIds(NamedTuple):
    """Rank numbers as int32 tensors of shape (1,), so that one program serves every rank."""

    tensor_rank_1: Any
    expert_rank_1: Any


class FeedForward(Protocol):
    """Feed-forward layer: protocol of `Dense` and `MixtureOfExperts`.

    Every rank of the tensor group passes the same tokens, x_ND. `dispatcher` moves tokens to their
    experts and back. `overflow_1` counts what exceeds the dispatcher's capacity, on all ranks of
    the expert group.
    """

    @property
    def tensor_group(self) -> Group:
        """The ranks that hold the same tokens."""

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank_ids: RankIds,
        weights: Any,
        *,
        dispatcher: Dispatcher,
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
    ) -> Any:
        """Return (y_ND, overflow_1): the output of every token, and 0."""
        overflow_1 = ops.full(x_ND, (1,), 0.0, np.float32)
        if not x_ND.shape[0]:  # no rank of the tensor group has tokens: none enters the all_reduce
            return x_ND, overflow_1
        partial_ND = dense_ffn(
            x_ND,
            weights.w_gate_FD,
            weights.w_up_FD,
            weights.w_down_DF,
            token_block=self.token_block,
        )
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
    expert_fn, split_tokens, router
        How the execution mode computes this rank's experts, selects the tokens that this rank
        dispatches, and routes them.
    """

    experts_per_token: int
    scaling: float
    expert_group: Group
    tensor_group: Group
    expert_fn: Callable[..., Any]
    split_tokens: Callable[..., Any]
    router: Callable[..., Any] = moe_router

    def __call__(
        self,
        x_ND: Any,
        position_N: Any,
        rank_ids: RankIds,
        weights: MoEWeights,
        *,
        dispatcher: Dispatcher,
    ) -> Any:
        """Return (y_ND, overflow_1): every token's weighted sum over its experts; overflow."""

        def expert_fn(x_ND: Any, weight_NA: Any, expert_NA: Any, **options: int) -> Any:
            return self.expert_fn(x_ND, weight_NA, expert_NA, weights.experts, **options)

        ranks, rank_1 = self.tensor_group.size, rank_ids.tensor_rank_1
        y_nD, overflow_1 = moe_block(
            self.split_tokens(x_ND, rank_1, ranks, padding=0),
            self.split_tokens(position_N, rank_1, ranks, padding=-1),
            weights.w_router_ED,
            weights.bias_E,
            rank_ids.expert_rank_1,
            expert_fn,
            group=self.expert_group,
            dispatcher=dispatcher,
            experts_per_token=self.experts_per_token,
            scaling=self.scaling,
            router=self.router,
        )
        return self._join_tokens(y_nD.astype(x_ND.dtype), x_ND.shape[0]), overflow_1

    def _join_tokens(self, y_nD: Any, tokens: int) -> Any:
        """Return the outputs of all `tokens` of the tensor group, from each rank's part of them."""
        if self.tensor_group.size == 1 or not tokens:
            return y_nD
        D, missing = y_nD.shape[1], -(-tokens // self.tensor_group.size) - y_nD.shape[0]
        if missing:
            y_nD = np.concatenate([y_nD, ops.full(y_nD, (missing, D), 0.0, y_nD.dtype)], axis=0)
        return np.reshape(self.tensor_group.all_gather(y_nD), (-1, D))[:tokens]
