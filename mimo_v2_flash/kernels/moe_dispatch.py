"""Tokens as messages: packed by the rank that holds their experts, answers added up on return.

Every rank owns E / P consecutive experts. A token that chose two experts of one rank travels
there once, with all its choices beside it, and comes back once, weighed and summed.

Source: expert parallelism of GShard, arXiv:2006.16668, section 3.2, without its capacity factor:
what does not fit is counted, never dropped in silence. MiMo: 8 experts a rank on 32 ranks.
"""

from typing import Any, NamedTuple

import numpy as np

from . import ops
from .axes import checked

__all__ = ["DispatchBuffers", "combine", "dispatch"]


class DispatchBuffers(NamedTuple):
    """A step's messages to every rank, and where each token's answers will be found.

    Empty slots have expert E, which nobody holds. `slot_NA` is P x M where a choice travels with
    an earlier choice of its token, or not at all. `overflow_1` counts what did not fit, float32.
    """

    x_PMD: Any
    weight_PMA: Any
    expert_PMA: Any
    slot_NA: Any
    overflow_1: Any


@checked
def dispatch(
    x_ND, weight_NA, expert_NA, *, ranks: int, num_experts: int, send_capacity: int
) -> DispatchBuffers:
    """Return the `DispatchBuffers` of tokens `x_ND`, with `send_capacity` (M) messages to each rank.

    A token with expert E (padding) is sent to nobody.

    Raises
    ------
    ValueError
        If the experts do not divide evenly, or there is no slot.
    """
    if min(ranks, send_capacity) < 1 or num_experts % ranks:
        raise ValueError(
            f"dispatch: {num_experts} experts on {ranks} ranks with send_capacity {send_capacity}"
        )
    (N, A), trash = expert_NA.shape, ranks * send_capacity
    lead_NAP = _first_choice_of_rank(expert_NA, ranks=ranks, num_experts=num_experts)
    sent_NP = np.sum(lead_NAP, axis=1)
    seat_NP = _running_total(sent_NP) - np.float32(1)
    start_P = np.arange(ranks, dtype=np.float32) * np.float32(send_capacity)
    place_NP = np.where(seat_NP < send_capacity, seat_NP + start_P, np.float32(trash))
    place_N1P = np.expand_dims(place_NP, 1) - np.float32(trash)
    slot_NA = (np.sum(lead_NAP * place_N1P, axis=2) + np.float32(trash)).astype(np.int32)

    token = ops.full(x_ND, (trash + 1,), N, np.int32)
    sender = ops.constant(x_ND, np.repeat(np.arange(N, dtype=np.int32), A))
    ops.put_rows(token, np.reshape(slot_NA, (N * A,)), sender)
    token = token[:trash]
    source = np.minimum(token, N - 1)
    expert = np.where(np.expand_dims(token, 1) < N, np.take(expert_NA, source, axis=0), num_experts)
    return DispatchBuffers(
        np.reshape(np.take(x_ND, source, axis=0), (ranks, send_capacity, x_ND.shape[1])),
        np.reshape(np.take(weight_NA, source, axis=0), (ranks, send_capacity, A)),
        np.reshape(expert, (ranks, send_capacity, A)),
        slot_NA,
        np.reshape(np.sum(sent_NP * (seat_NP >= send_capacity).astype(np.float32)), (1,)),
    )


@checked
def combine(output_PMD, slot_NA):
    """Return `y_ND`: the sum of every token's answers, float32."""
    P, M, D = output_PMD.shape
    answer = np.reshape(output_PMD, (P * M, D))
    y_ND = None
    for choice in range(slot_NA.shape[1]):
        slot_N1 = slot_NA[:, choice : choice + 1]
        row_N = np.minimum(np.reshape(slot_N1, (-1,)), P * M - 1)
        part_ND = np.take(answer, row_N, axis=0).astype(np.float32)
        part_ND = np.where(slot_N1 < P * M, part_ND, np.float32(0))
        y_ND = part_ND if y_ND is None else y_ND + part_ND
    return y_ND


def _first_choice_of_rank(expert_NA, *, ranks: int, num_experts: int):
    """Return `lead_NAP`, 1 at each token's first choice of each rank it chose, else 0."""
    experts_per_rank = num_experts // ranks
    first_P = np.arange(ranks, dtype=np.int32) * np.int32(experts_per_rank)
    local_NAP = np.expand_dims(expert_NA, 2) - first_P
    mine_NAP = ((local_NAP >= 0) & (local_NAP < experts_per_rank)).astype(np.float32)
    earlier_NP = np.zeros_like(mine_NAP[:, 0])
    lead = []
    for choice in range(expert_NA.shape[1]):
        mine_NP = mine_NAP[:, choice]
        lead.append(mine_NP * (np.float32(1) - earlier_NP))
        earlier_NP = np.maximum(earlier_NP, mine_NP)
    return np.stack(lead, axis=1)


def _running_total(x_NP):
    """Return sums over the first axis up to each row, by doubling: exact below 2^24.

    `np.cumsum` would put an N x N triangle into the traced program.
    """
    shift = 1
    while shift < x_NP.shape[0]:
        earlier = np.concatenate([np.zeros_like(x_NP[:shift]), x_NP[:-shift]], axis=0)
        x_NP, shift = x_NP + earlier, shift * 2
    return x_NP
