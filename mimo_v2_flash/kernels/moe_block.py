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
from .moe_dispatch import pack, unpack
from .moe_router import moe_router

if TYPE_CHECKING:
    from mimo_v2_flash.parallel import Group

__all__ = ["AllToAll", "Answer", "Exchange", "by_all_gather", "moe_block"]

Answer = Callable[..., Any]
"""From x_ND, weight_NA and expert_NA (ids among this rank's own; others are not answered) to
y_ND, each token's weighted sum over this rank's experts. `AllToAll` says how many seats there are
before each expert."""

Exchange = Callable[..., Any]
"""A way to the experts and back: from x_ND, weight_NA, expert_NA (E is nobody) and an answer, with
group and experts (E) by keyword, to y_ND, float32, and overflow_1."""


@checked
def moe_block(
    x_ND,
    position_N,
    w_router_ED,
    bias_E,
    rank_1,
    answer: Answer,
    *,
    group: Group,
    exchange: Exchange,
    experts_per_token: int,
    scaling: float,
):
    """Return (y_ND, overflow_1): every token's experts' answers, weighed and summed, float32.

        y = sum over chosen experts of weight x expert(x)

    The tokens are this rank's own, and `answer` computes this rank's own experts: E / P, from
    `rank_1` x E / P on. The rank is data, so that one program serves every rank. Padding (position
    -1) chooses nobody. `overflow_1` counts what `AllToAll` has no slot or seat for, on all ranks
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

    def own_answer(x_ND, weight_NA, expert_NA, **seating):
        own_NA = expert_NA - rank_1 * np.int32(E // group.size)
        return answer(x_ND, weight_NA, own_NA, **seating)

    return exchange(x_ND, weight_NA, expert_NA, own_answer, group=group, experts=E)


@dataclass(frozen=True)
class AllToAll:
    """Send each token to the ranks that it chose: the way of a prompt, in static shapes.

    Parameters
    ----------
    slots
        Messages to each rank.
    seats
        Tokens before each expert.
    """

    slots: int
    seats: int

    def __call__(self, x_ND, weight_NA, expert_NA, answer, *, group, experts):
        """Return (y_ND, overflow_1): an `Exchange`."""
        P, M = group.size, self.slots
        parcel = pack(x_ND, weight_NA, expert_NA, ranks=P, experts=experts, slots=M)
        x, weight, expert = (
            np.reshape(group.all_to_all(part), (P * M, part.shape[2])) for part in parcel[:3]
        )
        answers = answer(x, weight, expert, seats=self.seats).astype(x_ND.dtype)
        answer_PMD = group.all_to_all(np.reshape(answers, (P, M, x_ND.shape[1])))
        token_E = group.all_reduce(_tokens_of_experts(expert_NA, experts=experts))
        standing_E = np.maximum(token_E - np.float32(self.seats), np.float32(0))
        standing_1 = np.sum(standing_E, axis=0, keepdims=True)
        return unpack(answer_PMD, parcel.slot_NA), standing_1 + group.all_reduce(parcel.overflow_1)


def by_all_gather(x_ND, weight_NA, expert_NA, answer, *, group, experts):  # noqa: ARG001
    """Show every token to every rank: the way of a few tokens."""
    (N, D), A, P = x_ND.shape, expert_NA.shape[1], group.size
    chosen = np.concatenate([weight_NA, expert_NA.astype(np.float32)], axis=1)  # exact to 2^24
    x = np.reshape(group.all_gather(x_ND), (P * N, D))
    chosen = np.reshape(group.all_gather(chosen), (P * N, 2 * A))
    answers = answer(x, chosen[:, :A], chosen[:, A:].astype(np.int32))
    y_ND = group.reduce_scatter(np.reshape(answers, (P, N, D)))
    return y_ND, ops.full(x_ND, (1,), 0.0, np.float32)


def _tokens_of_experts(expert_NA, *, experts: int):
    """Return how many of these tokens chose each expert, `token_E`, float32."""
    id_E = ops.constant(expert_NA, np.arange(experts, dtype=np.int32))
    return np.sum((np.expand_dims(expert_NA, 2) == id_E).astype(np.float32), axis=(0, 1))
