"""Mutants of memory: what the engine counts, who waits, and which pages are given back."""

from functools import partial

from tools.kernel_mutants import Mutant, mutant_in

__all__ = ["MEMORY_MUTANTS"]

_engine = partial(mutant_in, "engine")


def _of_cache(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"mimo_v2_flash/{module}.py", old, new, (f"tests/test_{module}.py",))


MEMORY_MUTANTS = (
    _engine(
        "a budget that is off by one token",
        "memory_budget",
        "        if self._limit is not None and needed > self._limit:\n            return False",
        "        if self._limit is not None and needed > self._limit + self._sizes.token:\n"
        "            return False",
        "memory_budget",
    ),
    _engine(
        "a request that can never fit is off by one byte",
        "memory_budget",
        "        if self._limit is not None and needed > self._limit:\n            raise",
        "        if self._limit is not None and needed > self._limit + 1:\n            raise",
        "memory_budget",
        "engine_memory",
    ),
    _engine(
        "an answer counts without its last tokens",
        "request",
        "len(prompt) + max(limit - 1, 0)",
        "len(prompt) + max(limit - 2, 0)",
        "engine_memory",
    ),
    _engine(
        "a row counts by its tokens and not by the most that it held",
        "memory_budget",
        "self._held[row] = max(self._held[row], tokens)",
        "self._held[row] = tokens",
    ),
    _engine(
        "a reservation that is not released",
        "memory_budget",
        "        self._reserved[row] = 0\n",
        "",
    ),
    _engine(
        "a cancelled request keeps its memory",
        "scheduler",
        "        self._memory.release(sequence.row, sequence.computed)\n",
        "",
        "scheduler",
        "engine_memory",
    ),
    _engine(
        "pages of a running row are given back",
        "memory_budget",
        "held, reserved = self._held[row], self._reserved[row]",
        "held, reserved = self._held[row], 0",
        "memory_budget",
        "engine_memory",
    ),
    _engine(
        "prefixes take memory beside the rows'",
        "memory_budget",
        "min(self._prefix_budget, max(0, room - self._counted(rank)))",
        "self._prefix_budget",
    ),
    _engine(
        "requests wait for the memory of another rank",
        "memory_budget",
        "for row in self._ranks[rank])\n        needed",
        "for rows in self._ranks for row in rows)\n        needed",
        "memory_budget",
    ),
    _engine(
        "each rank has a memory of its own size",
        "memory_size",
        "return int(np.min(",
        "return int(limit or np.min(",
    ),
    _engine(
        "each rank takes a part of the whole machine",
        "memory_size",
        " // _local_ranks(group)",
        "",
    ),
    mutant_in(
        "cpu",
        "a container's memory is the machine's",
        "free_memory",
        ".available, min(groups, default=math.inf)",
        ".available, math.inf",
    ),
    _of_cache(
        "pages of the neighbour before are given back",
        "kv_pages",
        "begin, end = -(-first // PAGE) * PAGE,",
        "begin, end = first // PAGE * PAGE,",
    ),
    _of_cache(
        "pages of the neighbour after are given back",
        "kv_pages",
        ", last // PAGE * PAGE",
        ", -(-last // PAGE) * PAGE",
    ),
    _of_cache(
        "keys at the edge of a row stay",
        "kv_pages",
        "pages[first:begin], pages[end:last] = bytes(begin - first), bytes(last - end)",
        "pages[first:begin] = bytes(begin - first)",
    ),
    _of_cache(
        "tokens that were given back are still seen",
        "kv_pages",
        "    layer.position_Z[start:stop] = -1\n",
        "",
    ),
    _of_cache(
        "pages that the system does not take back",
        "kv_pages",
        "mmap.MAP_PRIVATE |",
        "mmap.MAP_SHARED |",
    ),
    _of_cache(
        "huge pages for a few tokens",
        "kv_pages",
        "if slots * row < HUGE_PAGE else",
        "if slots else",
    ),
    _of_cache(
        "rings stay when a row is given back",
        "kv_cache",
        "if slots == self.max_length or start == 0:",
        "if slots == self.max_length:",
    ),
    _of_cache(
        "a cache counts its rings by the token",
        "kv_bytes",
        "token + (not is_ring) * slot",
        "token + slot",
    ),
)
