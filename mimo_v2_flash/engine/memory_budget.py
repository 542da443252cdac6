"""The memory budget: bytes that rows of the KV cache and prefixes may take on each rank.

A row counts by the most tokens that it has held since its pages were given back, and while a
request has it by the most that it may get, its prompt and `max_tokens`: whatever has begun can end.

Pages are given back where rows and the prefixes' whole budget do not fit beside each other, and not
before: 1 MB costs 0.1 ms to give back and 0.6 ms when it is written again, for the 5 MB of a short
request as much as a step of a tiny model. Then prefixes are dropped, and last a request waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.filesize import decimal

from mimo_v2_flash.expert_store import store_stats
from mimo_v2_flash.kv_bytes import KVBytes

from .memory_size import memory_size

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.model import MiMoV2FlashModel

    from .executor import Executor

__all__ = ["MemoryBudget", "MemoryUsage", "new_memory_budget"]

DEFAULT = "90%"


class MemoryUsage(NamedTuple):
    """Bytes of the rank that has most of them, by count.

    Attributes
    ----------
    row_bytes, prefix_bytes
        Keys and values in rows, and in the prefix store.
    memory_bytes, peak_memory_bytes
        These and what every cache has, such as positions; the most so far.
    max_memory_bytes
        The limit; None if there is none.
    """

    row_bytes: int
    prefix_bytes: int
    memory_bytes: int
    peak_memory_bytes: int
    max_memory_bytes: int | None


class MemoryBudget:
    """The memory of the rows of each data-parallel rank, within one limit for each.

    Parameters
    ----------
    rank_rows
        The rows of each data-parallel rank.
    sizes
        Bytes of a cache, by what they depend on.
    limit
        Bytes of each rank for rows and prefixes; None for any number.
    executor
        What has the rows and the prefix stores of all ranks.

    Raises
    ------
    ValueError
        If an empty cache is larger than the limit.
    """

    def __init__(
        self,
        rank_rows: Sequence[slice],
        sizes: KVBytes,
        limit: int | None,
        executor: Executor,
    ) -> None:
        self._ranks = [range(rows.start, rows.stop) for rows in rank_rows]
        self._sizes, self._limit, self._executor = sizes, limit, executor
        self._prefix_budget = max((store.budget for store in executor.prefixes), default=0)
        self._held = [0] * sum(map(len, self._ranks))  # tokens, by row
        self._reserved = [0] * len(self._held)
        self._peak = 0
        if limit is not None and sizes.fixed > limit:
            raise ValueError(
                f"an empty KV cache has {decimal(sizes.fixed)}, memory is {decimal(limit)}: "
                "lower max_sequences or max_length"
            )

    def check(self, rows: int, tokens: int) -> None:
        """Raise ValueError if `rows` rows of `tokens` tokens do not even fit alone."""
        needed = self._sizes.total(rows, tokens)
        if self._limit is not None and needed > self._limit:
            raise ValueError(
                f"the request may need {decimal(needed)}, {rows} x {tokens} tokens, memory is "
                f"{decimal(self._limit)}: lower max_tokens or n, or shorten the prompt"
            )

    def reserve(self, rows: Sequence[int], tokens: int) -> bool:
        """Reserve `tokens` tokens in each of some rows of a rank; False if they do not fit now."""
        rank = next(i for i, members in enumerate(self._ranks) if rows[0] in members)
        reserved = sum(self._sizes.row(self._reserved[row]) for row in self._ranks[rank])
        needed = self._sizes.fixed + reserved + len(rows) * self._sizes.row(tokens)
        if self._limit is not None and needed > self._limit:
            return False
        for row in rows:
            self._reserved[row] = tokens
        self._settle(rank)
        return True

    def release(self, row: int, tokens: int) -> None:
        """End the reservation of a row that holds `tokens` tokens."""
        self.record(row, tokens)
        self._reserved[row] = 0

    def record(self, row: int, tokens: int) -> None:
        """Count a row that holds `tokens` tokens."""
        self._held[row] = max(self._held[row], tokens)

    def settle(self) -> None:
        """Let rows and prefixes fit beside each other."""
        for rank in range(len(self._ranks)):
            self._settle(rank)

    def usage(self) -> MemoryUsage:
        """Return the bytes of the rank that has most."""
        rows, prefixes = max(
            (
                (sum(self._sizes.row(self._held[row]) for row in members), self._prefix_bytes(rank))
                for rank, members in enumerate(self._ranks)
            ),
            key=sum,
        )
        total = self._sizes.fixed + rows + prefixes
        self._peak = max(self._peak, total)
        return MemoryUsage(rows, prefixes, total, self._peak, self._limit)

    def _settle(self, rank: int) -> None:
        """Give pages back where prefixes would have to be dropped, and then drop prefixes."""
        if self._limit is None:
            return
        room = self._limit - self._sizes.fixed
        if self._counted(rank) + self._prefix_budget > room:
            self._give_back(rank)
        if self._executor.prefixes:
            budget = min(self._prefix_budget, max(0, room - self._counted(rank)))
            if budget != self._executor.prefixes[rank].budget:
                self._executor.resize_prefixes(rank, budget)

    def _give_back(self, rank: int) -> None:
        """Give back the pages of a rank's rows that no reservation covers."""
        for row in self._ranks[rank]:
            held, reserved = self._held[row], self._reserved[row]
            if held > reserved and self._executor.give_back(row, reserved, held):
                self._held[row] = reserved

    def _counted(self, rank: int) -> int:
        """Return the bytes that a rank's rows have or may get."""
        rows = self._ranks[rank]
        return sum(self._sizes.row(max(self._held[row], self._reserved[row])) for row in rows)

    def _prefix_bytes(self, rank: int) -> int:
        return self._executor.prefixes[rank].nbytes if self._executor.prefixes else 0


def new_memory_budget(
    model: MiMoV2FlashModel, cache: HybridCache, memory: int | str | None, executor: Executor
) -> MemoryBudget:
    """Return the budget of an engine's parameter `memory`: a collective call.

    All ranks admit the same requests: the largest rank's cache counts.

    Parameters
    ----------
    model : MiMoV2FlashModel
        The model.
    cache : HybridCache
        The engine's cache.
    memory : int, str or None
        Bytes, a size or a part of the free memory; see `Engine`.
    executor : Executor
        What gives memory back, and says whether it can.
    """
    limit = None
    if memory is not None or not model.pads_steps:
        limit = memory_size("memory", DEFAULT if memory is None else memory, model.group)
    if limit is not None and memory is None and (store := store_stats(model)):
        limit = max(0, limit - (store.max_bytes - store.held_bytes))
    sizes = KVBytes(cache.nbytes, 0, 0) if model.pads_steps else cache.kv_bytes
    sizes_P3 = model.group.all_gather(np.array(sizes, np.int64))
    largest = KVBytes(*np.max(sizes_P3, axis=0).tolist())
    return MemoryBudget(cache.rank_rows, largest, limit, executor)
