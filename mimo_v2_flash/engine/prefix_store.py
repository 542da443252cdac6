"""The prefix store: keys and values of known token prefixes, in blocks, beside the cache's rows.

Blocks of 32 positions form a tree, which branches share. A sequence whose prompt begins with known
blocks has them copied into its row and starts after them: at any multiple of 32, or at the prompt's
last token. Full layers need all blocks before the start, sliding layers the last ones alone; their
part of a block is nine times as large, and is dropped on its own.

Source: the tree and its order of eviction: RadixAttention, arXiv:2312.07104.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

from mimo_v2_flash.inputs import as_count
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.parallel import HostGroup

__all__ = ["BLOCK", "PrefixStore", "prefix_budget"]

BLOCK = 32  # positions

LayerBlocks = dict[int, tuple[np.ndarray, np.ndarray]]
"""Keys and values of a block's positions, by layer."""


@dataclass(eq=False)
class _Block:
    """The keys and values of 32 tokens after those of the parent.

    Those of other ranks hold nothing: every rank knows the tree, and decides alike.
    """

    token_T: tuple[int, ...]
    parent: "_Block | None"
    full: LayerBlocks = field(default_factory=dict)
    sliding: LayerBlocks = field(default_factory=dict)
    children: "dict[tuple[int, ...], _Block]" = field(default_factory=dict)


class PrefixStore:
    """The known prefixes of one data-parallel rank, within a budget of bytes.

    Parameters
    ----------
    cache
        The cache whose rows are filled and read; it captures what its rings do not keep.
    budget
        Bytes; least recently used leaves are dropped first, and parts of sliding layers that have
        not been used for longer.
    """

    def __init__(self, cache: HybridCache, budget: int) -> None:
        self._cache, self._budget = cache, budget
        layers = range(len(cache.slots))
        self._sliding = [layer for layer in layers if cache.slots[layer] < cache.max_length]
        self._full = [layer for layer in layers if layer not in self._sliding]
        self._full_bytes, self._sliding_bytes = map(self._block_bytes, (self._full, self._sliding))
        self._root = _Block((), None)
        self._used: OrderedDict[_Block, int] = OrderedDict()  # children before their parents
        self._sliding_used: OrderedDict[_Block, int] = OrderedDict()
        self._time = 0

    @property
    def nbytes(self) -> int:
        """Bytes that the blocks take."""
        return len(self._used) * self._full_bytes + len(self._sliding_used) * self._sliding_bytes

    def known(self, token_T: Sequence[int]) -> int:
        """Return where `restore` would let a prompt start."""
        return self._find(token_T)[0]

    def restore(self, token_T: Sequence[int], row: int) -> int:
        """Fill a row with the known beginning of a prompt, and return where the prompt starts."""
        start, path = self._find(token_T)
        if not start:
            return 0
        first, cache = self._first_needed(start), self._cache
        self._touch(path, path[first:])
        for index, block in enumerate(path):
            position_T = np.arange(index * BLOCK, min((index + 1) * BLOCK, start))
            self._fill(row, position_T, block.full)
            if index >= first:
                self._fill(row, position_T, block.sliding)
        cache.length_B[row] = start
        cache.oldest_B[row] = max(first * BLOCK, start - min(cache.slots))
        return start

    def save(self, token_T: Sequence[int], row: int, start: int, first_token: int) -> None:
        """Keep the blocks that a step completed, if any.

        Parameters
        ----------
        token_T
            The sequence's tokens that have been computed.
        row
            Its row.
        start, first_token
            The position of the step's first token of the sequence, and its index in the flat step.
        """
        begin, end = start // BLOCK * BLOCK, len(token_T) // BLOCK * BLOCK
        path = self._path(token_T[:begin])
        if begin == end or len(path) * BLOCK < begin:
            return  # none is complete, or earlier ones have been dropped
        saved = []
        for first in range(begin, end, BLOCK):
            parent = path[-1] if path else self._root
            key, position_T = tuple(token_T[first : first + BLOCK]), np.arange(first, first + BLOCK)
            block = parent.children.get(key)
            if block is None:
                block = parent.children[key] = _Block(key, parent)
                block.full = self._read(self._full, row, position_T)
            path.append(block)
            # A position that this step did not bring is in the ring, or overwritten by the step.
            is_captured_T = position_T < len(token_T) - min(self._cache.slots)
            if np.any(is_captured_T & (position_T < start)):
                continue
            saved.append(block)
            if block not in self._sliding_used:
                token = first_token - start
                block.sliding = self._read(self._sliding, row, position_T, is_captured_T, token)
        self._touch(path, saved)
        self._drop()

    def _find(self, token_T: Sequence[int]) -> tuple[int, list[_Block]]:
        """Return where a prompt can start, and the blocks before that."""
        last = len(token_T) - 1
        path = self._path(token_T)
        known = min(len(path) * BLOCK, last)
        rest = tuple(token_T[len(path) * BLOCK : last])
        for key, block in (path[-1] if path else self._root).children.items():
            if rest and key[: len(rest)] == rest:
                path, known = [*path, block], last
                break
        for start in (known, *range((known - 1) // BLOCK * BLOCK, 0, -BLOCK)):
            if start != last and start % BLOCK:
                continue
            blocks = path[: -(-start // BLOCK)]
            if all(block in self._sliding_used for block in blocks[self._first_needed(start) :]):
                return start, blocks
        return 0, []

    def _path(self, token_T: Sequence[int]) -> list[_Block]:
        """Return the known blocks that some tokens begin with."""
        path: list[_Block] = []
        for begin in range(0, len(token_T) - BLOCK + 1, BLOCK):
            children = (path[-1] if path else self._root).children
            block = children.get(tuple(token_T[begin : begin + BLOCK]))
            if block is None:
                break
            path.append(block)
        return path

    def _first_needed(self, start: int) -> int:
        """Return the first block whose positions the window of a token at `start` holds."""
        return max(0, start - self._cache.window + 1) // BLOCK

    def _touch(self, path: list[_Block], sliding: list[_Block]) -> None:
        """Record that blocks are used now, and the parts of sliding layers of some of them."""
        self._time += 1
        for used, blocks in ((self._used, path), (self._sliding_used, sliding)):
            for block in reversed(blocks):  # a leaf is always dropped before its parents
                used[block] = self._time
                used.move_to_end(block)

    def _drop(self) -> None:
        """Drop what has not been used for longest, until the rest is within the budget."""
        while self.nbytes > self._budget:
            leaf = next(iter(self._used))
            oldest = next(iter(self._sliding_used), None)
            if oldest is not None and self._sliding_used[oldest] <= self._used[leaf]:
                oldest.sliding = {}
                del self._sliding_used[oldest]
            else:
                del self._used[leaf]
                self._sliding_used.pop(leaf, None)
                if leaf.parent is not None:
                    del leaf.parent.children[leaf.token_T]

    def _block_bytes(self, layers: list[int]) -> int:
        """Return the bytes of a block in some layers."""
        return sum(part[:BLOCK].nbytes for i in layers for part in self._cache.layers[i][:2])

    def _is_local(self, row: int) -> bool:
        rows = self._cache.local_rows
        return rows.start <= row < rows.stop

    def _fill(self, row: int, position_T: np.ndarray, blocks: LayerBlocks) -> None:
        """Write a block's keys and values, as many as there are positions, into a row."""
        for layer, (k_TKQ, v_TKC) in blocks.items():
            cache, row_T = self._cache.layers[layer], self._cache.flat_rows(layer, row, position_T)
            cache.k_ZKQ[row_T] = k_TKQ[: len(position_T)]
            cache.v_ZKC[row_T] = v_TKC[: len(position_T)]
            cache.position_Z[row_T] = position_T

    def _read(
        self,
        layers: list[int],
        row: int,
        position_T: np.ndarray,
        is_captured_T: np.ndarray | bool = False,
        first_token: int = 0,
    ) -> LayerBlocks:
        """Return a copy of a row's keys and values; those captured lie beside the ring."""
        blocks = {}
        for layer in layers if self._is_local(row) else ():
            cache, row_T = self._cache.layers[layer], self._cache.flat_rows(layer, row, position_T)
            captured_T = self._cache.capture_start(layer) + first_token + position_T
            row_T = np.where(is_captured_T, captured_T, row_T)
            blocks[layer] = cache.k_ZKQ[row_T], cache.v_ZKC[row_T]
        return blocks


def prefix_budget(size: int | str, group: HostGroup) -> int:
    """Return the bytes of `prefix_cache`: ranks, which drop the same blocks, have the least."""
    budget = size if isinstance(size, int) else _part_of_memory(size)
    budget = as_count("prefix_cache", budget, minimum=0)
    return int(np.min(group.all_gather(np.array([budget], np.int64))))


def _part_of_memory(size: str) -> int:
    """Return the bytes of a part of the free memory, such as "10%"."""
    number, percent, rest = size.partition("%")
    if rest or not percent or not number.isdecimal() or int(number) > 100:
        raise ValueError(f'prefix_cache is {size!r}, allowed is bytes or a part such as "10%"')
    return psutil.virtual_memory().available * int(number) // 100
