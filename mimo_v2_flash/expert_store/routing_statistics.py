"""Statistics of recorded routing: how skewed it is, and how much of it comes again at once."""

from typing import NamedTuple

import numpy as np

from .routing_trace import RoutingTrace

__all__ = ["RoutingStatistics", "choice_counts", "routing_statistics"]

TOP = 0.1  # of a layer's experts


class RoutingStatistics(NamedTuple):
    """Statistics of recorded routing.

    Attributes
    ----------
    tokens, calls, decode_calls
        Tokens that passed through the layers; calls of layers, and those of decoded tokens alone.
    experts, chosen_experts
        Experts of all layers, and those that any token chose.
    reuse
        The part of the experts of a decode call that the layer's previous call chose too; NaN if
        there are no such calls.
    top_tenth
        The part of a layer's choices that go to the most chosen tenth of its experts, on average
        over layers. Where all are chosen alike it is about a tenth.
    """

    tokens: float
    calls: int
    decode_calls: int
    experts: int
    chosen_experts: int
    reuse: float
    top_tenth: float


def routing_statistics(trace: RoutingTrace) -> RoutingStatistics:
    """Return the statistics of recorded routing."""
    count_LE = choice_counts(trace)
    shares, previous = [], dict[int, np.ndarray]()
    for call in trace.calls:
        if call.is_decode and call.layer in previous:
            shares.append(float(np.isin(call.experts, previous[call.layer]).mean()))
        previous[call.layer] = call.experts
    layers, experts = count_LE.shape
    top = np.sort(count_LE, axis=1)[:, -max(1, round(TOP * experts)) :].sum(axis=1)
    return RoutingStatistics(
        tokens=sum(len(call.expert_NA) for call in trace.calls) / layers,
        calls=len(trace.calls),
        decode_calls=sum(call.is_decode for call in trace.calls),
        experts=count_LE.size,
        chosen_experts=int(np.count_nonzero(count_LE)),
        reuse=float(np.mean(shares)) if shares else float("nan"),
        top_tenth=float(np.mean(top / np.maximum(count_LE.sum(axis=1), 1))),
    )


def choice_counts(trace: RoutingTrace) -> np.ndarray:
    """Return how many tokens chose each expert, [L, E]."""
    count_LE = np.zeros(trace.header.sizes.shape, np.int64)
    for call in trace.calls:
        np.add.at(count_LE[call.layer], call.expert_NA.reshape(-1), 1)
    return count_LE
