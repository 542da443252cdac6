"""MoE communication statistics: bytes, expert loads and seconds, of one rank and of all ranks.

A backend wraps the dispatcher of every decoder layer. The wrapped dispatcher computes the same on
an `InstrumentedGroup`, and records which experts the tokens chose.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.parallel import HostGroup, InstrumentedGroup

from .decoder import DecoderLayer
from .eager_dispatchers import DISPATCHERS

__all__ = ["DispatchStats", "DispatchStatsBackend"]


@dataclass(eq=False)
class DispatchStats:
    """Communication statistics of one MoE dispatcher; a call is one step in one layer.

    Attributes
    ----------
    calls
        Calls of the dispatcher, counted on every rank.
    tokens, pairs
        Tokens that ranks dispatched, and (token, expert) pairs that the router chose for them.
    computed
        Pairs that experts computed; fewer than `pairs` if any was lost.
    sent, lower_bound
        Bytes that left a rank, and the least possible: each token goes once to every other rank
        that holds one of its experts, one output comes back, and no routing data travels.
    dispatch_seconds, expert_seconds
        Time in collectives, waiting for other ranks included, and time in experts.
    tokens_per_expert, tokens_per_rank
        Histograms: at index n, how often an expert, or a rank, had n tokens in a call.
    """

    calls: float = 0
    tokens: float = 0
    pairs: float = 0
    computed: float = 0
    sent: float = 0
    lower_bound: float = 0
    dispatch_seconds: float = 0
    expert_seconds: float = 0
    tokens_per_expert: np.ndarray = field(default_factory=lambda: np.zeros(1))
    tokens_per_rank: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def total(self, group: HostGroup) -> "DispatchStats":
        """Return the sum over the ranks of `group`, a collective: every rank must call it."""
        *numbers, tokens_per_expert, tokens_per_rank = (
            getattr(self, stat.name) for stat in fields(self)
        )
        histograms = tokens_per_expert, tokens_per_rank
        longest = int(np.max(group.all_gather(np.array([len(one) for one in histograms]))))
        padded = (_add_histograms(np.zeros(longest), one) for one in histograms)
        summed = group.all_reduce(np.concatenate([np.array(numbers, np.float64), *padded]))
        totals, *histogram_totals = np.split(summed, np.cumsum([len(numbers), longest]))
        return DispatchStats(*totals.tolist(), *histogram_totals)


class DispatchStatsBackend(NumpyBackend):
    """A NumPy backend that records the MoE communication of its rank.

    Attributes
    ----------
    by_dispatcher
        The `DispatchStats` of each dispatcher, by the keys of `eager_dispatchers.DISPATCHERS`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Set all statistics to zero."""
        self.by_dispatcher = {name: DispatchStats() for name in DISPATCHERS}
        self._stats = {kind: self.by_dispatcher[name] for name, kind in DISPATCHERS.items()}

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function`, with its dispatcher recorded if it is a decoder layer."""
        return self.wrap_layer(function) if isinstance(function, DecoderLayer) else function

    def wrap_layer(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Return a layer's program with its dispatcher recorded."""

        def program(*args: Any, dispatcher: Dispatcher, **kwargs: Any) -> Any:
            instrumented = _instrument(dispatcher, self._stats[type(dispatcher)])
            return layer(*args, dispatcher=instrumented, **kwargs)

        return program


def _instrument(dispatcher: Dispatcher, stats: DispatchStats) -> Dispatcher:
    """Return a dispatcher that computes as `dispatcher` does and records its calls in `stats`."""

    def call(
        x_ND: Any,
        weight_NA: Any,
        expert_NA: Any,
        expert_fn: Any,
        *,
        group: HostGroup,
        num_experts: int,
    ) -> Any:
        counted, experts_per_rank = InstrumentedGroup(group), num_experts // group.size

        def timed_experts(x_ND: Any, weight_NA: Any, expert_NA: Any) -> Any:
            start = time.perf_counter()
            y_ND = expert_fn(x_ND, weight_NA, expert_NA)
            stats.expert_seconds += time.perf_counter() - start
            _record_load(stats, expert_NA - group.rank * experts_per_rank, experts_per_rank)
            return y_ND

        _record_routing(stats, expert_NA, num_experts, group, x_ND[:1].nbytes)
        output = dispatcher(
            x_ND, weight_NA, expert_NA, timed_experts, group=counted, num_experts=num_experts
        )
        stats.calls += 1
        stats.sent += sum(collective.sent for collective in counted.stats.values())
        stats.dispatch_seconds += sum(collective.seconds for collective in counted.stats.values())
        return output

    return call


def _record_routing(
    stats: DispatchStats, expert_NA: np.ndarray, num_experts: int, group: HostGroup, nbytes: int
) -> None:
    """Record the experts that this rank's tokens chose; a token's hidden state has `nbytes`."""
    P, chosen_NA = group.size, expert_NA < num_experts
    rank_NA = expert_NA // (num_experts // P)
    sent_PN = np.any(rank_NA == np.arange(P)[:, None, None], axis=2)
    sent_PN[group.rank] = False
    stats.tokens += np.count_nonzero(np.any(chosen_NA, axis=1))
    stats.pairs += np.count_nonzero(chosen_NA)
    stats.lower_bound += 2 * nbytes * np.count_nonzero(sent_PN)


def _record_load(stats: DispatchStats, local_NA: np.ndarray, experts_per_rank: int) -> None:
    """Record the tokens of each of this rank's experts, and of all of them together."""
    is_local_NA = (local_NA >= 0) & (local_NA < experts_per_rank)
    load_e = np.bincount(local_NA[is_local_NA], minlength=experts_per_rank)
    tokens = np.count_nonzero(np.any(is_local_NA, axis=1))
    stats.computed += np.count_nonzero(is_local_NA)
    stats.tokens_per_expert = _add_histograms(stats.tokens_per_expert, np.bincount(load_e))
    stats.tokens_per_rank = _add_histograms(stats.tokens_per_rank, np.bincount([tokens]))


def _add_histograms(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the sum of two arrays, the shorter one padded with zeros."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    summed = longer.astype(np.float64)
    summed[: len(shorter)] += shorter
    return summed
