"""What an expert store holds, reads and evicts, written from the definitions in plain Python.

docs/expert_caching.md has the definitions. Nothing here is fast, and nothing is of the package.
"""

from collections import defaultdict
from typing import Any, NamedTuple

__all__ = ["Call", "Replayed", "replay"]

HALF_LIFE = 128


class Call(NamedTuple):
    """A call of a layer: the experts that its tokens chose, ascending, and how many tokens."""

    layer: int
    experts: tuple[int, ...]
    tokens: int = 1


class Replayed(NamedTuple):
    """What became of calls: counts, the groups of each, and what was evicted, in order."""

    hits: int
    misses: int
    cold_misses: int
    groups: list[tuple[int, ...]]
    evicted: list[tuple[int, int]]


class _Uses:
    """All uses of experts so far."""

    def __init__(self) -> None:
        self.order: list[tuple[int, int]] = []
        self.tokens: dict[int, int] = defaultdict(int)
        self.periods: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, call: Call) -> None:
        self.tokens[call.layer] += call.tokens
        for expert in call.experts:
            self.order.append((call.layer, expert))
            self.periods[call.layer, expert].append(self.tokens[call.layer] // HALF_LIFE)

    def last(self, key: tuple[int, int]) -> int:
        return max(i for i, used in enumerate(self.order) if used == key)

    def decayed(self, key: tuple[int, int]) -> int:
        """Return the uses, a sum that each half-life of the layer's tokens halves, rounded down."""
        count = 0
        for period in range(self.tokens[key[0]] // HALF_LIFE + 1):
            count = count // 2 + self.periods[key].count(period)
        return count


def _value(uses: _Uses, policy: str, key: tuple[int, int]) -> int:
    if policy == "lfu":
        return uses.order.count(key)
    if policy == "lfu-decay":
        return uses.decayed(key)
    if policy == "class-lru":
        return len(bin(uses.decayed(key))) if uses.decayed(key) else 0
    return 0  # lru, static


def replay(
    calls: list[Call],
    sizes: Any,
    budget: int,
    policy: str,
    kept: set[tuple[int, int]] = frozenset(),
) -> Replayed:
    """Replay calls in a store of `budget` bytes, whose expert has `sizes[layer][expert]` bytes."""
    uses, held, hits, misses, cold = _Uses(), set(), 0, 0, 0
    groups, evicted = [], []
    for call in calls:
        uses.add(call)
        rest = [(call.layer, expert) for expert in call.experts]
        while rest:
            group: list[tuple[int, int]] = []
            for key in rest:
                victims = _victims(key, held, group, rest, sizes, budget, kept, uses, policy)
                if victims is None:
                    break
                hits, misses = hits + (key in held), misses + (key not in held)
                cold += key not in held and uses.order.count(key) == 1
                held = {*held, key} - {*victims}
                evicted += victims
                group.append(key)
            groups.append(tuple(expert for _, expert in group))
            rest = rest[len(group) :]
    return Replayed(hits, misses, cold, groups, evicted)


def _victims(key, held, group, rest, sizes, budget, kept, uses, policy) -> list | None:
    """Return who makes room for `key`; None if the group ends before it."""

    def size(keys) -> int:
        return sum(sizes[layer][expert] for layer, expert in keys)

    def tier(other) -> int:
        return 2 if other in rest else 1 if other in kept else 0

    if key in held:
        return []
    allowed = [k for k in held if k not in group and (not group or tier(k) == 0)]
    allowed.sort(key=lambda k: (tier(k), _value(uses, policy, k), uses.last(k)))
    victims: list[tuple[int, int]] = []
    while size(held) - size(victims) + size([key]) > budget:
        if len(victims) == len(allowed):
            return None
        victims.append(allowed[len(victims)])
    return victims
