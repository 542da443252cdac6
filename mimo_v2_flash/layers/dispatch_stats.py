"""What a run sends to its experts and back: bytes, loads and seconds, on a rank and on all.

A backend as `layers.watched` is one: the exchange that a layer is given is replaced by one that
does the same, on a group that counts, and takes down who chose whom.
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


@dataclass
class DispatchStats:
    """What went one way to the experts and back; a call is a step's passage through one layer.

    Attributes
    ----------
    calls
        Passages, once for every rank.
    tokens, pairs
        Tokens that ranks took there, and (token, expert) pairs that these chose.
    answered
        Pairs that experts answered; fewer than `pairs` if any was lost.
    sent, least
        Bytes that left a rank, and that would have if each token went once to every other rank
        that it chose, and an answer came back, with nothing beside them.
    exchange_seconds, expert_seconds
        In exchanges, waiting for others included, and in experts.
    of_expert, of_rank
        At index n, how often an expert, and a rank, had n tokens in a call.
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
        """Return the sum over all ranks of `group`, which make this call together."""
        mine = [getattr(self, part.name) for part in fields(self)]
        *numbers, tokens_per_expert, tokens_per_rank = mine
        longest = int(
            np.max(group.all_gather(np.array([len(tokens_per_expert), len(tokens_per_rank)])))
        )
        lengths = np.cumsum([len(numbers), longest])
        loads = (_added(np.zeros(longest), load) for load in (tokens_per_expert, tokens_per_rank))
        summed = group.all_reduce(np.concatenate([np.array(numbers, np.float64), *loads]))
        numbers_, *loads_ = np.split(summed, lengths)
        return DispatchStats(*numbers_.tolist(), *loads_)


class DispatchStatsBackend(NumpyBackend):
    """A backend: NumPy, with a record of the exchanges of one rank.

    Attributes
    ----------
    ways
        What went each way, by the names of `token_exchange.DISPATCHERS`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.by_dispatcher = {name: DispatchStats() for name in DISPATCHERS}
        self._wrapped = {
            dispatcher: _wrapped(dispatcher, self.by_dispatcher[name])
            for name, dispatcher in DISPATCHERS.items()
        }

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, with its exchanges recorded if it is a layer."""
        return self.wrap_layer(function) if isinstance(function, DecoderLayer) else function

    def wrap_layer(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Return a layer's program with its exchanges recorded."""

        def program(*given: Any, dispatcher: Dispatcher, **static: Any) -> Any:
            return layer(*given, dispatcher=self._wrapped[dispatcher], **static)

        return program


def _wrapped(dispatcher: Dispatcher, stats: DispatchStats) -> Dispatcher:
    """Return `dispatcher`, noting in `stats` what it does."""

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

        def heard(x_ND: Any, weight_NA: Any, expert_NA: Any) -> Any:
            start = time.perf_counter()
            y_ND = expert_fn(x_ND, weight_NA, expert_NA)
            stats.expert_seconds += time.perf_counter() - start
            _note_loads(stats, expert_NA - group.rank * experts_per_rank, experts_per_rank)
            return y_ND

        _note_choices(stats, expert_NA, num_experts, group, x_ND[:1].nbytes)
        said = dispatcher(x_ND, weight_NA, expert_NA, heard, group=counted, num_experts=num_experts)
        stats.calls += 1
        stats.sent += sum(stats.sent for stats in counted.stats.values())
        stats.dispatch_seconds += sum(stats.seconds for stats in counted.stats.values())
        return said

    return call


def _note_choices(
    stats: DispatchStats, expert_NA: np.ndarray, num_experts: int, group: HostGroup, row: int
) -> None:
    """Note what tokens of this rank choose; of each, `row` bytes would have to travel."""
    P, chosen_NA = group.size, expert_NA < num_experts
    holder_NA = expert_NA // (num_experts // P)
    sent_PN = np.any(holder_NA == np.arange(P)[:, None, None], axis=2)
    sent_PN[group.rank] = False
    stats.tokens += np.count_nonzero(np.any(chosen_NA, axis=1))
    stats.pairs += np.count_nonzero(chosen_NA)
    stats.lower_bound += 2 * row * np.count_nonzero(sent_PN)


def _note_loads(stats: DispatchStats, local_NA: np.ndarray, experts_per_rank: int) -> None:
    """Note the tokens of each of this rank's experts, and of all of them together."""
    here_NA = (local_NA >= 0) & (local_NA < experts_per_rank)
    load_e = np.bincount(local_NA[here_NA], minlength=experts_per_rank)
    arrived = np.count_nonzero(np.any(here_NA, axis=1))
    stats.computed += np.count_nonzero(here_NA)
    stats.tokens_per_expert = _added(stats.tokens_per_expert, np.bincount(load_e))
    stats.tokens_per_rank = _added(stats.tokens_per_rank, np.bincount([arrived]))


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the sum of two arrays, the shorter one continued with zeros."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    summed = longer.astype(np.float64)
    summed[: len(shorter)] += shorter
    return summed
