"""Expert-parallel mixture of experts: route, dispatch, run the local experts, combine.

Source: GShard, arXiv:2006.16668, section 3.2; DeepSeek-V3, arXiv:2412.19437, section 2.1.2;
transformers `models/mimo_v2_flash` (`MiMoV2FlashMoE`). MiMo: E = 256, A = 8, layers 1 to 47.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ops
from .axes import checked
from .moe_dispatch import combine, dispatch
from .moe_router import moe_router

if TYPE_CHECKING:
    from mimo_v2_flash.parallel import Group

__all__ = [
    "AllGatherDispatcher",
    "AllReduceDispatcher",
    "AllToAllDispatcher",
    "Dispatcher",
    "ExpertFn",
    "moe_block",
]

ExpertFn = Callable[..., Any]
"""A function of x_ND, weight_NA and expert_NA (local ids; others are skipped) that returns y_ND:
each token's weighted sum over the experts of this rank. `AllToAllDispatcher` passes `capacity` as
well, the most tokens that an expert takes."""

Dispatcher = Callable[..., Any]
"""A function that sends tokens to the ranks of their experts and combines the outputs.

It takes x_ND, weight_NA, expert_NA (E is padding) and an `ExpertFn`, with `group` and `num_experts`
(E) by keyword, and returns y_ND, float32, and overflow_1."""


@checked
def moe_block(
    x_ND,
    position_N,
    w_router_ED,
    bias_E,
    rank_1,
    expert_fn: ExpertFn,
    *,
    group: Group,
    dispatcher: Dispatcher,
    experts_per_token: int,
    scaling: float,
    router: Callable[..., Any] = moe_router,
):
    """Return (y_ND, overflow_1): the weighted sum of the expert outputs of each token, float32.

        y = sum over chosen experts of weight x expert(x)

    The tokens are local to this rank, and `expert_fn` computes its local experts: E / P, from
    `rank_1` x E / P on. The rank is data, so that one program serves every rank. Padding (position
    -1) is sent to no expert. `overflow_1` counts what exceeds `send_capacity` or `capacity` of
    `AllToAllDispatcher`, over all ranks of the group: where it is not zero, the step must be
    computed again with larger capacities.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Normalised hidden states of this rank's tokens.
    position_N : array of int32
        Their positions; -1 is padding.
    w_router_ED, bias_E : array
        The router's weight, and the bias that chooses and never weighs.
    rank_1 : array of int32, [1]
        This rank in the group.
    expert_fn : callable
        Returns the weighted outputs of this rank's experts for tokens.
    group : Group
        The ranks that share the experts.
    dispatcher : Dispatcher
        How tokens reach the ranks of their experts, and come back.
    experts_per_token : int
        Experts that a token chooses.
    scaling : float
        Factor on the weights of experts.
    router : callable
        The router, with the arguments and results of `moe_router`.

    Raises
    ------
    ValueError
        If the experts do not divide evenly over the ranks.
    """
    E = w_router_ED.shape[0]
    if E % group.size:
        raise ValueError(f"moe_block: {E} experts on {group.size} ranks")
    weight_NA, expert_NA = router(
        x_ND, w_router_ED, bias_E, experts_per_token=experts_per_token, scaling=scaling
    )
    expert_NA = np.where(np.expand_dims(position_N, 1) >= 0, expert_NA, E)

    def run_local_experts(x_ND, weight_NA, expert_NA, **options):
        local_NA = expert_NA - rank_1 * np.int32(E // group.size)
        return expert_fn(x_ND, weight_NA, local_NA, **options)

    return dispatcher(x_ND, weight_NA, expert_NA, run_local_experts, group=group, num_experts=E)


@dataclass(frozen=True)
class AllToAllDispatcher:
    """Static-shape all-to-all dispatch with capacities, for many tokens.

    Each token is sent to the ranks of its chosen experts.

    Parameters
    ----------
    send_capacity
        Tokens that this rank can send to each rank.
    capacity
        Tokens that each expert can take (expert capacity, GShard).
    """

    send_capacity: int
    capacity: int

    def __call__(self, x_ND, weight_NA, expert_NA, expert_fn, *, group, num_experts):
        """Return (y_ND, overflow_1): as every `Dispatcher` does."""
        P, M = group.size, self.send_capacity
        buffers = dispatch(
            x_ND, weight_NA, expert_NA, ranks=P, num_experts=num_experts, send_capacity=M
        )
        x, weight, expert = (
            np.reshape(group.all_to_all(part), (P * M, part.shape[2])) for part in buffers[:3]
        )
        outputs = expert_fn(x, weight, expert, capacity=self.capacity).astype(x_ND.dtype)
        output_PMD = group.all_to_all(np.reshape(outputs, (P, M, x_ND.shape[1])))
        count_E = group.all_reduce(_count_tokens_per_expert(expert_NA, num_experts=num_experts))
        overflow_E = np.maximum(count_E - np.float32(self.capacity), np.float32(0))
        capacity_overflow_1 = np.sum(overflow_E, axis=0, keepdims=True)
        y_ND = combine(output_PMD, buffers.buffer_row_NA)
        send_overflow_1 = group.all_reduce(buffers.overflow_1)
        return y_ND, capacity_overflow_1 + send_overflow_1


@dataclass(frozen=True)
class AllGatherDispatcher:
    """All-gather dispatch, for few tokens: every rank takes every token, and nothing overflows."""

    def __call__(self, x_ND, weight_NA, expert_NA, expert_fn, *, group, num_experts):
        """Return (y_ND, overflow_1): as every `Dispatcher` does."""
        (N, D), A, P = x_ND.shape, expert_NA.shape[1], group.size
        routing = np.concatenate([weight_NA, expert_NA.astype(np.float32)], axis=1)  # exact to 2^24
        x = np.reshape(group.all_gather(x_ND), (P * N, D))
        routing = np.reshape(group.all_gather(routing), (P * N, 2 * A))
        outputs = expert_fn(x, routing[:, :A], routing[:, A:].astype(np.int32))
        y_ND = group.reduce_scatter(np.reshape(outputs, (P, N, D)))
        return y_ND, ops.full(x_ND, (1,), 0.0, np.float32)


@dataclass(frozen=True)
class AllReduceDispatcher:
    """No dispatch, where every rank has every token: the experts' outputs alone are added up."""

    def __call__(self, x_ND, weight_NA, expert_NA, expert_fn, *, group, num_experts):
        """Return (y_ND, overflow_1): as every `Dispatcher` does; all ranks' `x_ND` are equal."""
        y_ND = group.all_reduce(expert_fn(x_ND, weight_NA, expert_NA))
        return y_ND, ops.full(x_ND, (1,), 0.0, np.float32)


def _count_tokens_per_expert(expert_NA, *, num_experts: int):
    """Return `count_E`: how many of the tokens chose each expert, float32."""
    id_E = ops.constant(expert_NA, np.arange(num_experts, dtype=np.int32))
    return np.sum((np.expand_dims(expert_NA, 2) == id_E).astype(np.float32), axis=(0, 1))
