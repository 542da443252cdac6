"""Reference MoE dispatch and combine: the messages to each rank as lists.

Source: expert parallelism of GShard, arXiv:2006.16668, section 3.2.
"""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Message", "combine", "dispatch"]


class Message(NamedTuple):
    """A token sent to a rank, with all of its expert choices."""

    token: int
    x_D: Any
    weight_A: list[float]
    expert_A: list[int]


def dispatch(
    x_ND, weight_NA, expert_NA, *, ranks: int, num_experts: int, send_capacity: int
) -> tuple[list[list[Message]], int]:
    """Return (the messages to every rank, the number of messages that did not fit).

    A token is sent once to every rank that holds one of its experts; expert e is on rank
    e / (experts / ranks), rounded down. Messages are in the order of tokens, at most
    `send_capacity` to a rank.
    """
    messages: list[list[Message]] = [[] for _ in range(ranks)]
    for token, chosen in enumerate(expert_NA):
        expert_A = [int(expert) for expert in chosen]
        experts_per_rank = num_experts // ranks
        for rank in sorted(
            {expert // experts_per_rank for expert in expert_A if 0 <= expert < num_experts}
        ):
            x_D = x_ND[token].astype(np.float64)
            weight_A = [float(weight) for weight in weight_NA[token]]
            messages[rank].append(Message(token, x_D, weight_A, expert_A))
    overflow = sum(max(0, len(queue) - send_capacity) for queue in messages)
    return [queue[:send_capacity] for queue in messages], overflow


def combine(output_PMD, buffer_row_NA):
    """Return `y_ND`: the sum of each token's outputs; slot P x M stands for none."""
    P, M, D = output_PMD.shape
    y_ND = np.zeros((len(buffer_row_NA), D))
    for (n, _), slot in np.ndenumerate(buffer_row_NA):
        if slot < P * M:
            y_ND[n] += output_PMD[slot // M, slot % M].astype(np.float64)
    return y_ND
