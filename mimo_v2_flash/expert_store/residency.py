"""Which experts a store holds: hits, reads and evictions of calls, in numbers alone.

The store and the simulator of recorded routing share this bookkeeping. A call takes its experts in
groups, in the order of their numbers. A group has as many of the next ones as fit into the budget
beside what the call needs later; where not even one fits so, what it needs later goes too.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .access_history import AccessHistory
from .eviction_policies import Policy

__all__ = ["ExpertGroup", "Residency"]

FREE, KEPT, NEEDED = 0, 1, 2  # tiers, of which the lowest goes first


class ExpertGroup(NamedTuple):
    """Experts of one layer that a call multiplies together, and what that changes.

    Attributes
    ----------
    experts, missing
        The experts in ascending order, and those of them that have to be read.
    evicted
        Keys of the experts that made room, in order.
    """

    experts: list[int]
    missing: list[int]
    evicted: list[int]


class Residency:
    """The experts that a budget of bytes holds.

    Parameters
    ----------
    size_LE
        Bytes of each expert, layer after layer: its key is its index in this order.
    budget
        The most bytes of all held experts, not less than the largest.
    policy
        Which expert goes first.
    layer_ids
        The numbers of the layers in the model, by which a policy names what it keeps.

    Attributes
    ----------
    size_K
        Bytes of each expert.
    history
        The uses of all experts so far.
    held_bytes, peak_bytes
        Bytes of the experts that are held, and the most so far.
    hits, misses, cold_misses, evictions
        Uses of experts that were held, and that were not; those of the latter that were an
        expert's first use; experts that made room.
    """

    def __init__(
        self, size_LE: np.ndarray, budget: int, policy: Policy, layer_ids: Sequence[int]
    ) -> None:
        self._layers, self.experts = size_LE.shape
        self.size_K, self.budget, self._policy = size_LE.reshape(-1), budget, policy
        self.history = AccessHistory(*size_LE.shape)
        self._is_held_K, self._pins_K = np.zeros(size_LE.size, bool), np.zeros(size_LE.size, int)
        self._tier_K = np.full(size_LE.size, FREE)
        for layer, expert in policy.kept:
            if layer in layer_ids and 0 <= expert < self.experts:
                self._tier_K[layer_ids.index(layer) * self.experts + expert] = KEPT
        self.held_bytes = self.peak_bytes = 0
        self.hits = self.misses = self.cold_misses = self.evictions = 0

    def begin_call(self, layer: int, experts: Sequence[int], tokens: int) -> None:
        """Count a call of a layer, by its index, that chose `experts` for so many tokens.

        Parameters
        ----------
        layer : int
            Index of the layer.
        experts : sequence of int
            Ids of the experts that the call chose.
        tokens : int
            Number of tokens of the call.
        """
        self.history.add_call(self._keys(layer, experts), tokens)

    def take_group(self, layer: int, experts: Sequence[int]) -> ExpertGroup:
        """Return the next group of a call that still needs `experts`, ascending, and pin it.

        It has no expert if other calls have pinned what would have to go.
        """
        group, keys = ExpertGroup([], [], []), self._keys(layer, experts)
        for expert, key in zip(experts, keys.tolist(), strict=True):
            if self._is_held_K[key]:
                self.hits += 1
            elif self._make_room(key, keys, group):
                self._count_miss(key)
                group.missing.append(expert)
            else:
                break
            self._pins_K[key] += 1
            group.experts.append(expert)
        return group

    def release(self, layer: int, group: ExpertGroup) -> None:
        """Unpin the experts of a group."""
        self._pins_K[self._keys(layer, group.experts)] -= 1

    def drop(self, layer: int, expert: int) -> None:
        """Count an expert, whose reading failed, as not held."""
        self._set_held(layer * self.experts + expert, is_held=False)

    def _keys(self, layer: int, experts: Sequence[int]) -> np.ndarray:
        return layer * self.experts + np.asarray(experts, np.int64)

    def _count_miss(self, key: int) -> None:
        self._set_held(key, is_held=True)
        self.misses += 1
        self.cold_misses += bool(self.history.count_K[key] == 1)

    def _make_room(self, key: int, needed: np.ndarray, group: ExpertGroup) -> bool:
        """Evict what makes room for an expert, or nothing if that is not enough."""
        missing = self.held_bytes + int(self.size_K[key]) - self.budget
        if missing <= 0:
            return True
        tier_K = self._tier_K.copy()
        tier_K[needed] = NEEDED
        highest = FREE if group.experts else NEEDED
        (candidates,) = np.nonzero(self._is_held_K & (self._pins_K == 0) & (tier_K <= highest))
        if self.size_K[candidates].sum() < missing:
            return False
        while missing > 0:
            victim = self._first(candidates, tier_K)
            candidates = candidates[candidates != victim]
            self._set_held(victim, is_held=False)
            self.evictions += 1
            group.evicted.append(victim)
            missing -= int(self.size_K[victim])
        return True

    def _first(self, candidates: np.ndarray, tier_K: np.ndarray) -> int:
        """Return who goes first: of the lowest tier, of the lowest value, of the oldest use."""
        candidates = candidates[tier_K[candidates] == tier_K[candidates].min()]
        value = self._policy.value(self.history, candidates)
        candidates = candidates[value == value.min()]
        return int(candidates[np.argmin(self.history.last_use_K[candidates])])

    def _set_held(self, key: int, *, is_held: bool) -> None:
        self._is_held_K[key] = is_held
        self.held_bytes += int(self.size_K[key]) * (1 if is_held else -1)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
