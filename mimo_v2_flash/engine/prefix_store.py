"""The prefix store: keys and values of known token prefixes, in blocks, beside the cache's rows.

Blocks of 32 positions form a tree, which branches share. A sequence whose prompt begins with known
blocks has them copied into its row and starts after them: at any multiple of 32, or at the prompt's
last token. Full layers need all blocks before the start, sliding layers the last ones alone; their
part of a block is nine times as large, and is dropped on its own.

Source: the tree and its order of eviction: RadixAttention, arXiv:2312.07104.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.kv_transfer import TokenKV

__all__ = ["BLOCK", "PrefixStore"]

BLOCK = 32  # positions


@dataclass(eq=False)
class _Block:
    """The keys and values of 32 tokens after those of the parent.

    They are on the host. Those of other ranks are empty shapes: every rank knows the tree, decides
    alike, and runs the same programs.
    """

    token_T: tuple[int, ...]
    parent: "_Block | None"
    full: TokenKV = ()
    sliding: TokenKV = ()
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
    omitted
        Layers of the cache that are not kept: those of MTP heads, which read the hidden states of a
        prefix's end again.
    """

    def __init__(self, cache: HybridCache, budget: int, omitted: Collection[int] = ()) -> None:
        self._cache, self.budget = cache, budget
        layers = [layer for layer in range(len(cache.slots)) if layer not in omitted]
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
            position_T = np.arange(index * BLOCK, (index + 1) * BLOCK)
            self._fill(self._full, row, position_T, start, block.full)
            if index >= first:
                self._fill(self._sliding, row, position_T, start, block.sliding)
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

    def resize(self, budget: int) -> None:
        """Take another budget, and drop what is beyond it."""
        self.budget = budget
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
        while self.nbytes > self.budget:
            leaf = next(iter(self._used))
            oldest = next(iter(self._sliding_used), None)
            if oldest is not None and self._sliding_used[oldest] <= self._used[leaf]:
                oldest.sliding = ()
                del self._sliding_used[oldest]
            else:
                del self._used[leaf]
                self._sliding_used.pop(leaf, None)
                if leaf.parent is not None:
                    del leaf.parent.children[leaf.token_T]

    def _block_bytes(self, layers: list[int]) -> int:
        """Return the bytes of a block in some layers."""
        parts = [part for layer in layers for part in self._cache.layers[layer][:2]]
        return sum(BLOCK * (part.nbytes // part.shape[0]) for part in parts)

    def _caches(self, layers: list[int]) -> tuple[KVCache, ...]:
        return tuple(self._cache.layers[layer] for layer in layers)

    def _fill(
        self, layers: list[int], row: int, position_T: np.ndarray, end: int, tokens: TokenKV
    ) -> None:
        """Write those tokens of a block that are before `end` into a row."""
        if layers:
            position_T = np.where(position_T < end, position_T, -1)
            row_T = self._cache.flat_rows(layers[0], row, position_T)
            self._cache.transfer.write(self._caches(layers), tokens, position_T, row_T)

    def _read(
        self,
        layers: list[int],
        row: int,
        position_T: np.ndarray,
        is_captured_T: np.ndarray | bool = False,
        first_token: int = 0,
    ) -> TokenKV:
        """Return a copy of a row's keys and values; those captured lie beside the ring."""
        if not layers:
            return ()
        row_T = self._cache.flat_rows(layers[0], row, position_T)
        captured_T = self._cache.capture_start(layers[0]) + first_token + position_T
        row_T = np.where(is_captured_T, captured_T, row_T)
        tokens = self._cache.transfer.read(self._caches(layers), row_T)
        if self._cache.rank_of(row) == self._cache.rank:
            return tokens
        return tuple((_empty_shape(k_TKQ), _empty_shape(v_TKC)) for k_TKQ, v_TKC in tokens)


def _empty_shape(x_T: np.ndarray) -> np.ndarray:
    """Return an array of the same shape, whose rows are one."""
    return np.broadcast_to(x_T[:1].copy(), x_T.shape)
