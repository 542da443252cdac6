"""Messages between ranks as plain lists: who sends what to whom, in which order.

Source: expert parallelism of GShard, arXiv:2006.16668, section 3.2.
"""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Message", "pack", "unpack"]


class Message(NamedTuple):
    """A token on its way, with all of its choices."""

    token: int
    x_D: Any
    weight_A: list[float]
    expert_A: list[int]


def pack(
    x_ND, weight_NA, expert_NA, *, ranks: int, experts: int, slots: int
) -> tuple[list[list[Message]], int]:
    """Return (the messages to every rank, how many more did not fit).

    A token goes once to every rank that holds one of its experts; expert e lies on rank
    e / (experts / ranks), rounded down. Messages go in the order of tokens, at most `slots` to a
    rank.
    """
    messages: list[list[Message]] = [[] for _ in range(ranks)]
    for token, chosen in enumerate(expert_NA):
        expert_A = [int(expert) for expert in chosen]
        experts_per_rank = experts // ranks
        for rank in sorted(
            {expert // experts_per_rank for expert in expert_A if 0 <= expert < experts}
        ):
            x_D = x_ND[token].astype(np.float64)
            weight_A = [float(weight) for weight in weight_NA[token]]
            messages[rank].append(Message(token, x_D, weight_A, expert_A))
    overflow = sum(max(0, len(queue) - slots) for queue in messages)
    return [queue[:slots] for queue in messages], overflow


def unpack(answer_PMD, slot_NA):
    """Return `y_ND`: the sum of a token's answers; slot P x M stands for none."""
    P, M, D = answer_PMD.shape
    y_ND = np.zeros((len(slot_NA), D))
    for (n, _), slot in np.ndenumerate(slot_NA):
        if slot < P * M:
            y_ND[n] += answer_PMD[slot // M, slot % M].astype(np.float64)
    return y_ND
