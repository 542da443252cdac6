"""Mixture of experts over the ranks of a group: route, exchange, answer, combine.

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

__all__ = ["AllGatherDispatcher", "AllToAllDispatcher", "Dispatcher", "ExpertFn", "moe_block"]

ExpertFn = Callable[..., Any]
"""From x_ND, weight_NA and expert_NA (ids among this rank's own; others are not answered) to
y_ND, each token's weighted sum over this rank's experts. `AllToAllDispatcher` says how many seats there are
before each expert."""

Dispatcher = Callable[..., Any]
"""A way to the experts and back: from x_ND, weight_NA, expert_NA (E is nobody) and an answer, with
group and experts (E) by keyword, to y_ND, float32, and overflow_1."""


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
):
    """Return (y_ND, overflow_1): every token's experts' answers, weighed and summed, float32.

        y = sum over chosen experts of weight x expert(x)

    The tokens are this rank's own, and `expert_fn` computes this rank's own experts: E / P, from
    `rank_1` x E / P on. The rank is data, so that one program serves every rank. Padding (position
    -1) chooses nobody. `overflow_1` counts what `AllToAllDispatcher` has no slot or seat for, on all ranks
    of the group together: where it is not zero the tokens must be answered again with more.

    Raises
    ------
    ValueError
        If experts do not divide evenly over the ranks.
    """
    E = w_router_ED.shape[0]
    if E % group.size:
        raise ValueError(f"moe_block: {E} experts on {group.size} ranks")
    weight_NA, expert_NA = moe_router(
        x_ND, w_router_ED, bias_E, experts_per_token=experts_per_token, scaling=scaling
    )
    expert_NA = np.where(np.expand_dims(position_N, 1) >= 0, expert_NA, E)

    def run_local_experts(x_ND, weight_NA, expert_NA, **options):
        local_NA = expert_NA - rank_1 * np.int32(E // group.size)
        return expert_fn(x_ND, weight_NA, local_NA, **options)

    return dispatcher(x_ND, weight_NA, expert_NA, run_local_experts, group=group, num_experts=E)


@dataclass(frozen=True)
class AllToAllDispatcher:
    """The dispatcher for prompts in static shapes: each token goes to the ranks that it chose.

    Parameters
    ----------
    send_capacity
        Messages to each rank.
    capacity
        Tokens that each expert takes (expert capacity, GShard).
    """

    send_capacity: int
    capacity: int

    def __call__(self, x_ND, weight_NA, expert_NA, expert_fn, *, group, num_experts):
        """Return (y_ND, overflow_1): a `Dispatcher`."""
        P, M = group.size, self.send_capacity
        buffers = dispatch(
            x_ND, weight_NA, expert_NA, ranks=P, num_experts=num_experts, send_capacity=M
        )
        x, weight, expert = (
            np.reshape(group.all_to_all(part), (P * M, part.shape[2])) for part in buffers[:3]
        )
        outputs = expert_fn(x, weight, expert, capacity=self.capacity).astype(x_ND.dtype)
        output_PMD = group.all_to_all(np.reshape(outputs, (P, M, x_ND.shape[1])))
        token_E = group.all_reduce(_tokens_of_experts(expert_NA, num_experts=num_experts))
        overflow_E = np.maximum(token_E - np.float32(self.capacity), np.float32(0))
        capacity_overflow_1 = np.sum(overflow_E, axis=0, keepdims=True)
        return combine(output_PMD, buffers.slot_NA), capacity_overflow_1 + group.all_reduce(
            buffers.overflow_1
        )


@dataclass(frozen=True)
class AllGatherDispatcher:
    """The dispatcher for few tokens: every rank sees every token, and nothing can overflow."""

    def __call__(self, x_ND, weight_NA, expert_NA, expert_fn, *, group, num_experts):
        """Return (y_ND, overflow_1): a `Dispatcher`."""
        (N, D), A, P = x_ND.shape, expert_NA.shape[1], group.size
        chosen = np.concatenate([weight_NA, expert_NA.astype(np.float32)], axis=1)  # exact to 2^24
        x = np.reshape(group.all_gather(x_ND), (P * N, D))
        chosen = np.reshape(group.all_gather(chosen), (P * N, 2 * A))
        outputs = expert_fn(x, chosen[:, :A], chosen[:, A:].astype(np.int32))
        y_ND = group.reduce_scatter(np.reshape(outputs, (P, N, D)))
        return y_ND, ops.full(x_ND, (1,), 0.0, np.float32)


def _tokens_of_experts(expert_NA, *, num_experts: int):
    """Return how many of these tokens chose each expert, `token_E`, float32."""
    id_E = ops.constant(expert_NA, np.arange(num_experts, dtype=np.int32))
    return np.sum((np.expand_dims(expert_NA, 2) == id_E).astype(np.float32), axis=(0, 1))
