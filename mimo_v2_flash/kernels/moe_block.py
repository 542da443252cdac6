"""Mixture of experts over the ranks of a group: route, exchange, answer, combine.

Source: GShard, arXiv:2006.16668, section 3.2; DeepSeek-V3, arXiv:2412.19437, section 2.1.2;
transformers `models/mimo_v2_flash` (`MiMoV2FlashMoE`). MiMo: E = 256, A = 8, layers 1 to 47.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ops
from .axes import checked
from .moe_dispatch import pack, unpack
from .moe_router import moe_router

if TYPE_CHECKING:
    from mimo_v2_flash.groups import Group

__all__ = ["Answer", "Exchange", "by_all_gather", "by_all_to_all", "moe_block"]

Answer = Callable[[Any, Any, Any], Any]
"""From x_ND, weight_NA and expert_NA (ids among this rank's own; others are not answered) to
y_ND, each token's weighted sum over this rank's experts."""

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
    -1) chooses nobody. `overflow_1` counts messages beyond the slots of `by_all_to_all`: where it
    is not zero the step must be run again with more.

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

    def own_answer(x_ND, weight_NA, expert_NA):
        return answer(x_ND, weight_NA, expert_NA - rank_1 * np.int32(E // group.size))

    return exchange(x_ND, weight_NA, expert_NA, own_answer, group=group, experts=E)


def by_all_to_all(x_ND, weight_NA, expert_NA, answer, *, group, experts, slots):
    """Send each token to the ranks that it chose, in `slots` messages to each: a prompt's way."""
    P, M = group.size, slots
    parcel = pack(x_ND, weight_NA, expert_NA, ranks=P, experts=experts, slots=slots)
    x, weight, expert = (
        np.reshape(group.all_to_all(part), (P * M, part.shape[2])) for part in parcel[:3]
    )
    answer_PMD = np.reshape(answer(x, weight, expert), (P, M, x_ND.shape[1]))
    answer_PMD = group.all_to_all(answer_PMD.astype(x_ND.dtype))
    return unpack(answer_PMD, parcel.slot_NA), parcel.overflow_1


def by_all_gather(x_ND, weight_NA, expert_NA, answer, *, group, experts):  # noqa: ARG001
    """Show every token to every rank: the way of a few tokens, and of one rank alone."""
    N, P = x_ND.shape[0], group.size
    x, weight, expert = (
        np.reshape(group.all_gather(part), (P * N, part.shape[1]))
        for part in (x_ND, weight_NA, expert_NA)
    )
    answer_PND = np.reshape(answer(x, weight, expert), (P, N, x_ND.shape[1]))
    return group.reduce_scatter(answer_PND), ops.full(x_ND, (1,), 0.0, np.float32)
