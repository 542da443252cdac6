"""Simulator of expert stores on recorded routing: what each policy would have read.

The bookkeeping is the store's own. "belady" evicts the expert that is needed last, and is what no
policy can know. "static" keeps the most used experts of the first half of the calls, and is judged
on the second; so all policies have their numbers of the second half too.

Source: L. A. Belady (1966), "A study of replacement algorithms for a virtual-storage computer".
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .access_history import AccessHistory
from .eviction_policies import POLICIES, Policy, static_policy
from .residency import Residency
from .routing_trace import LayerCall, RoutingTrace

__all__ = [
    "POOLS",
    "SIMULATED",
    "PhaseCounts",
    "Simulation",
    "least_capacity",
    "most_used",
    "simulate",
]

SIMULATED = (*POLICIES, "static", "belady")
POOLS = ("global", "per-layer")
NEVER = np.iinfo(np.int64).max  # no use follows


class PhaseCounts(NamedTuple):
    """Uses of experts in some calls.

    Attributes
    ----------
    hits, misses, cold_misses
        Uses of experts that were held, and that had to be read; those of the latter that were an
        expert's first use.
    tokens, read_bytes
        Tokens that passed through the layers, and bytes read.
    """

    hits: int = 0
    misses: int = 0
    cold_misses: int = 0
    tokens: float = 0.0
    read_bytes: int = 0

    def plus(self, other: "PhaseCounts") -> "PhaseCounts":
        """Return the sums."""
        return PhaseCounts(*map(sum, zip(self, other, strict=True)))  # type: ignore[arg-type]

    @property
    def hit_rate(self) -> float:
        """The part of all uses that were hits; NaN of none."""
        uses = self.hits + self.misses
        return self.hits / uses if uses else float("nan")


class Simulation(NamedTuple):
    """What became of recorded routing in a store.

    Attributes
    ----------
    policy, pool, capacity
        The eviction policy, whether layers share the budget, and the budget in bytes.
    prefill, decode
        Counts of calls that had tokens of prompts, and of all others.
    second_half
        Counts of the second half of the calls.
    """

    policy: str
    pool: str
    capacity: int
    prefill: PhaseCounts
    decode: PhaseCounts
    second_half: PhaseCounts

    @property
    def total(self) -> PhaseCounts:
        """Counts of all calls."""
        return self.prefill.plus(self.decode)


def least_capacity(trace: RoutingTrace, pool: str) -> int:
    """Return the least budget that has room for an expert in each pool, in bytes."""
    largest_L = trace.header.sizes.max(axis=1)
    return int(largest_L.max()) * (len(largest_L) if pool == "per-layer" else 1)


def simulate(trace: RoutingTrace, policy: str, capacity: int, pool: str = "global") -> Simulation:
    """Return what a store of `capacity` bytes would have read.

    Parameters
    ----------
    trace
        The recorded routing.
    policy
        One of `SIMULATED`.
    capacity
        The budget; of pools per layer, each layer has an equal part.
    pool
        One of `POOLS`.

    Raises
    ------
    ValueError
        If a pool has no room for an expert.
    """
    if capacity < (least := least_capacity(trace, pool)):
        raise ValueError(f"capacity is {capacity:,} bytes, expected room for experts: {least:,}")
    size_LE, half = trace.header.sizes, len(trace.calls) // 2
    every = np.arange(len(size_LE))
    pools = np.split(every, len(every)) if pool == "per-layer" else [every]
    phases = {name: PhaseCounts() for name in ("prefill", "decode", "second_half")}
    for layers in pools:
        budget = capacity // len(pools)
        part = [(index, call) for index, call in enumerate(trace.calls) if call.layer in layers]
        calls = [call._replace(layer=call.layer - int(layers[0])) for _, call in part]
        value = _belady(calls, size_LE.shape[1]) if policy == "belady" else None
        chosen = value or _policy(trace, policy, capacity)
        residency = Residency(
            size_LE[layers], budget, chosen, [trace.header.layers[layer] for layer in layers]
        )
        for (index, call), counts in zip(part, _run(residency, calls), strict=True):
            share = counts._replace(tokens=len(call.expert_NA) / len(size_LE))
            for name in ("decode" if call.is_decode else "prefill", "second_half"):
                if name != "second_half" or index >= half:
                    phases[name] = phases[name].plus(share)
    return Simulation(policy, pool, capacity, **phases)


def _run(residency: Residency, calls: Sequence[LayerCall]) -> Iterator[PhaseCounts]:
    """Yield the counts of each call."""
    size_K = residency.size_K
    for layer, _, expert_NA in calls:
        rest = np.unique(expert_NA).tolist()
        before = residency.hits, residency.misses, residency.cold_misses
        residency.begin_call(layer, rest, len(expert_NA))
        read = 0
        while rest:
            group = residency.take_group(layer, rest)
            read += int(size_K[layer * residency.experts + np.array(group.missing, int)].sum())
            residency.release(layer, group)
            rest = rest[len(group.experts) :]
        after = residency.hits, residency.misses, residency.cold_misses
        hits, misses, cold_misses = (b - a for a, b in zip(before, after, strict=True))
        yield PhaseCounts(hits, misses, cold_misses, read_bytes=read)


def _belady(calls: Sequence[LayerCall], experts: int) -> Policy:
    """Return the policy that evicts the expert whose next use is last, of calls that are known."""
    layers = 1 + max((call.layer for call in calls), default=0)
    uses = [list[int]() for _ in range(layers * experts)]
    for index, call in enumerate(calls):
        for key in (call.layer * experts + call.experts).tolist():
            uses[key].append(index)
    start_K = np.cumsum([0, *(len(each) + 1 for each in uses)])
    index_U = np.array([index for each in uses for index in (*each, NEVER)], np.int64)

    def value(history: AccessHistory, keys: np.ndarray) -> np.ndarray:
        return -index_U[start_K[keys] + history.count_K[keys]]

    return Policy("belady", value)


def most_used(
    calls: Iterable[LayerCall], size_LE: np.ndarray, capacity: int
) -> list[tuple[int, int]]:
    """Return (layer, expert), by indices, of the most used experts that fit into `capacity`.

    Room is left for the experts of a token in the largest layer, which are read besides.

    Parameters
    ----------
    calls : iterable of LayerCall
        Recorded calls.
    size_LE : array of int
        Bytes of each expert of each layer.
    capacity : int
        Bytes that there are.
    """
    uses: Counter[tuple[int, int]] = Counter()
    widest = 0
    for call in calls:
        uses.update((call.layer, expert) for expert in call.experts.tolist())
        widest = max(widest, call.expert_NA.shape[1])
    room, chosen = capacity - widest * int(size_LE.max()), []
    for key, _ in sorted(uses.items(), key=lambda item: (-item[1], item[0])):
        room -= int(size_LE[key])
        if room < 0:
            break
        chosen.append(key)
    return chosen


def _policy(trace: RoutingTrace, name: str, capacity: int) -> Policy:
    """Return a policy; the experts of a static one are learnt from the first half of the calls."""
    if name != "static":
        return Policy(name, POLICIES[name])
    first = trace.calls[: len(trace.calls) // 2]
    chosen = most_used(first, trace.header.sizes, capacity)
    return static_policy({(trace.header.layers[layer], expert) for layer, expert in chosen})
