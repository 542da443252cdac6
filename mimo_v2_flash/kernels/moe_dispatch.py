"""Static-shape MoE dispatch and combine: tokens in a fixed-size send buffer for each rank.

Every rank holds E / P consecutive experts. A token that chose two experts of one rank is sent
there once, with all of its choices, and its output comes back once, weighted and summed.

Source: expert parallelism of GShard, arXiv:2006.16668, section 3.2, which drops tokens beyond the
capacity; here they are counted, and the caller computes again. MiMo: 8 experts a rank on 32 ranks.
"""

from typing import Any, NamedTuple

import numpy as np

from . import ops
from .axes import checked

__all__ = ["DispatchBuffers", "combine", "dispatch"]


class DispatchBuffers(NamedTuple):
    """The send buffers of a step, and the slot of each (token, choice) pair in them.

    A buffer has M = `send_capacity` rows for each of P ranks. Empty rows have expert E, which no
    rank holds. `buffer_row_NA` is P x M where an earlier choice of the token goes to the same rank,
    or where the choice is not sent at all. `overflow_1` counts messages that did not fit, float32.
    """

    x_PMD: Any
    weight_PMA: Any
    expert_PMA: Any
    buffer_row_NA: Any
    overflow_1: Any


@checked
def dispatch(
    x_ND, weight_NA, expert_NA, *, ranks: int, num_experts: int, send_capacity: int
) -> DispatchBuffers:
    """Return the `DispatchBuffers` of `x_ND`, with `send_capacity` (M) slots for each rank.

    A token with expert E (padding) is not sent.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Tokens of this rank.
    weight_NA : array, float32
        Weight of each expert that a token chose.
    expert_NA : array of int32
        Id of each expert that a token chose; E is padding.
    ranks : int
        Number of ranks.
    num_experts : int
        Number of experts on all ranks, E.
    send_capacity : int
        Tokens that can be sent to each rank, M.

    Raises
    ------
    ValueError
        If the experts do not divide evenly, or `send_capacity` is less than 1.
    """
    if min(ranks, send_capacity) < 1 or num_experts % ranks:
        raise ValueError(
            f"dispatch: {num_experts} experts on {ranks} ranks with send_capacity {send_capacity}"
        )
    (N, A), trash = expert_NA.shape, ranks * send_capacity
    is_first_NAP = _first_choice_per_rank(expert_NA, ranks=ranks, num_experts=num_experts)
    sent_NP = np.sum(is_first_NAP, axis=1)
    index_NP = _cumulative_sum(sent_NP) - np.float32(1)
    start_P = np.arange(ranks, dtype=np.float32) * np.float32(send_capacity)
    buffer_row_NP = np.where(index_NP < send_capacity, index_NP + start_P, np.float32(trash))
    buffer_row_N1P = np.expand_dims(buffer_row_NP, 1) - np.float32(trash)
    buffer_row_NA = (np.sum(is_first_NAP * buffer_row_N1P, axis=2) + np.float32(trash)).astype(
        np.int32
    )

    # In each slot the index of its token, N where it is empty.
    token = ops.full(x_ND, (trash + 1,), N, np.int32)
    sender_NA = np.broadcast_to(np.expand_dims(ops.arange(x_ND, N), 1), (N, A))
    ops.put_rows(token, np.reshape(buffer_row_NA, (N * A,)), np.reshape(sender_NA, (N * A,)))
    token = token[:trash]
    source = np.minimum(token, N - 1)
    expert = np.where(np.expand_dims(token, 1) < N, np.take(expert_NA, source, axis=0), num_experts)
    return DispatchBuffers(
        np.reshape(np.take(x_ND, source, axis=0), (ranks, send_capacity, x_ND.shape[1])),
        np.reshape(np.take(weight_NA, source, axis=0), (ranks, send_capacity, A)),
        np.reshape(expert, (ranks, send_capacity, A)),
        buffer_row_NA,
        np.reshape(np.sum(sent_NP * (index_NP >= send_capacity).astype(np.float32)), (1,)),
    )


@checked
def combine(output_PMD, buffer_row_NA):
    """Return `y_ND`: the sum of the outputs that came back for each token, float32."""
    P, M, D = output_PMD.shape
    outputs = np.reshape(output_PMD, (P * M, D))
    y_ND = None
    for choice in range(buffer_row_NA.shape[1]):
        buffer_row_N1 = buffer_row_NA[:, choice : choice + 1]
        row_N = np.minimum(np.reshape(buffer_row_N1, (-1,)), P * M - 1)
        output_ND = np.take(outputs, row_N, axis=0).astype(np.float32)
        output_ND = np.where(buffer_row_N1 < P * M, output_ND, np.float32(0))
        y_ND = output_ND if y_ND is None else y_ND + output_ND
    return y_ND


def _first_choice_per_rank(expert_NA, *, ranks: int, num_experts: int):
    """Return `is_first_NAP`: 1 at a token's first choice on each of its ranks, else 0."""
    experts_per_rank = num_experts // ranks
    first_expert_P = np.arange(ranks, dtype=np.int32) * np.int32(experts_per_rank)
    local_NAP = np.expand_dims(expert_NA, 2) - first_expert_P
    on_rank_NAP = ((local_NAP >= 0) & (local_NAP < experts_per_rank)).astype(np.float32)
    earlier_NP = np.zeros_like(on_rank_NAP[:, 0])
    is_first = []
    for choice in range(expert_NA.shape[1]):
        on_rank_NP = on_rank_NAP[:, choice]
        is_first.append(on_rank_NP * (np.float32(1) - earlier_NP))
        earlier_NP = np.maximum(earlier_NP, on_rank_NP)
    return np.stack(is_first, axis=1)


def _cumulative_sum(x_NP):
    """Return the cumulative sum over the first axis, by doubling: exact below 2^24.

    `np.cumsum` would put an N x N triangle into the traced program.
    """
    shift = 1
    while shift < x_NP.shape[0]:
        earlier = np.concatenate([np.zeros_like(x_NP[:shift]), x_NP[:-shift]], axis=0)
        x_NP, shift = x_NP + earlier, shift * 2
    return x_NP
