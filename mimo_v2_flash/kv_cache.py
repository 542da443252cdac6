"""Hybrid KV cache: all tokens in full layers, a ring buffer of the last ones in sliding layers.

Each layer has one flat array of its final size; pages that no token has touched cost nothing
(`kv_pages.py`). `kv_slots.py` has the arithmetic of slots, `kv_bytes.py` that of bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np

from .config import LayerSpec
from .cpu.kv_codes import channels, is_finite
from .inputs import as_cache_dtype, as_integer
from .kernels.kv_cache import KVCache
from .kv_bytes import KVBytes
from .kv_pages import GIVES_BACK, empty_layers, give_back
from .kv_slots import MAX_DRAFT_TOKENS, slots_per_sequence
from .kv_transfer import KVTransfer

__all__ = ["HybridCache", "new_cache"]


@dataclass(eq=False)
class HybridCache:
    """The KV caches of all layers for one batch of sequences, and the length of each sequence.

    Attributes
    ----------
    layers
        One flat cache per decoder layer, with the keys and values of this rank's sequences.
    slots
        Slots per sequence in each layer.
    max_length
        The most tokens that a sequence may have.
    window
        Keys that a token of a sliding layer attends to, itself included.
    kv_bytes
        Bytes of this rank's arrays, by what they depend on.
    length_B
        Tokens that each sequence has; the next step starts at this position or before it.
    oldest_B
        The oldest position of each sequence that the ring buffers still hold.
    rank_rows
        The sequences of each data-parallel rank. Every rank has the length of every sequence.
    rank
        This rank's index in `rank_rows`.
    first_row
        Where this rank's first sequence lies in `layers`: not 0 in a `view`.
    captured
        Rows of a sliding layer's flat cache, after the rings, that keep the tokens of the last pass
        which its rings do not.
    start
        The first sequence, among those of the cache that this is a `view` of.
    transfer
        Copies tokens between rows, and between rows and the host.
    """

    layers: tuple[KVCache, ...]
    slots: tuple[int, ...]
    max_length: int
    window: int
    kv_bytes: KVBytes
    length_B: np.ndarray = field(repr=False)
    oldest_B: np.ndarray = field(repr=False)
    rank_rows: tuple[slice, ...]
    rank: int = 0
    first_row: int = 0
    captured: int = 0
    start: int = 0
    transfer: KVTransfer = field(default=KVTransfer(), repr=False)

    @property
    def batch_size(self) -> int:
        """Number of sequences, B, on all ranks."""
        return len(self.length_B)

    @property
    def local_rows(self) -> slice:
        """The sequences whose keys and values are in `layers`; other ranks hold the others."""
        return self.rank_rows[self.rank]

    @property
    def sequences(self) -> int:
        """Number of sequences that `layers` has room for."""
        return self.capture_start(0) // self.slots[0]

    @property
    def state(self) -> tuple[Any, ...]:
        """What all ranks that share this cache must agree on: sizes, dtype, sequences, lengths."""
        sizes = self.batch_size, self.max_length, self.layers[0].k_ZKQ.dtype.name
        rows = self.start, *((rows.start, rows.stop) for rows in self.rank_rows)
        return *sizes, rows, self.length_B.tolist(), self.oldest_B.tolist()

    @property
    def nbytes(self) -> int:
        """Bytes allocated; the system gives memory only to pages that were written."""
        return sum(part.nbytes for layer in self.layers for part in layer)

    def view(self, start: int, stop: int) -> "HybridCache":
        """Return the sequences from `start` to `stop` - 1 as a cache, which shares all arrays.

        A step on the view writes this cache's keys, values and lengths.

        Raises
        ------
        ValueError
            If there are no such sequences.
        """
        is_integer = isinstance(start, Integral) and isinstance(stop, Integral)
        if not (is_integer and 0 <= start < stop <= self.batch_size):
            raise ValueError(
                f"view({start!r:.40}, {stop!r:.40}): the cache has {self.batch_size} sequences, "
                "expected integers from 0 on, the second larger"
            )
        ends = np.clip([(rows.start, rows.stop) for rows in self.rank_rows], start, stop) - start
        rank_rows = tuple(slice(*pair) for pair in ends.tolist())
        return replace(
            self,
            length_B=self.length_B[start:stop],
            oldest_B=self.oldest_B[start:stop],
            rank_rows=rank_rows,
            start=self.start + start,
            first_row=self.first_row + max(0, start - self.local_rows.start),
        )

    def rank_of(self, row: int) -> int:
        """Return the data-parallel rank that has a sequence."""
        return next(i for i, rows in enumerate(self.rank_rows) if rows.start <= row < rows.stop)

    def capture_start(self, layer: int) -> int:
        """Return a layer's first row after those of the sequences: captured tokens, or trash."""
        is_ring = self.slots[layer] < self.max_length
        return self.layers[layer].position_Z.shape[0] - 1 - self.captured * is_ring

    def flat_rows(self, layer: int, sequence: int, position_T: np.ndarray) -> np.ndarray:
        """Return a layer's rows for positions of a sequence.

        They are the trash row for position -1, and for a sequence that another rank has.
        """
        slots, index = self.slots[layer], self.first_row + sequence - self.local_rows.start
        is_kept_T = (position_T >= 0) & (self.rank_of(sequence) == self.rank)
        trash = self.layers[layer].position_Z.shape[0] - 1
        return np.where(is_kept_T, index * slots + position_T % slots, trash)

    def copy_sequence(self, source: int, target: int) -> None:
        """Copy all that the cache holds of a sequence to another row of the same rank.

        Every rank records the length and runs the same programs; the rank that has the rows copies
        keys and values, the others their trash.
        """
        length = int(self.length_B[source])
        for slots in dict.fromkeys(self.slots):
            kind = [layer for layer, each in enumerate(self.slots) if each == slots]
            position_T = np.arange(max(0, length - slots), length)
            from_T, to_T = (self.flat_rows(kind[0], row, position_T) for row in (source, target))
            self.transfer.copy(tuple(self.layers[i] for i in kind), from_T, to_T, position_T)
        self.length_B[target] = length
        self.oldest_B[target] = self.oldest_B[source]

    def give_back(self, sequence: int, start: int, stop: int) -> bool:
        """Give the memory of a sequence's tokens from `start` to `stop` - 1 to the system.

        They are its last ones; rings are given back with the first. Returns False, and changes
        nothing, where the system takes no memory back.
        """
        is_local = self.rank_of(sequence) == self.rank
        for index, layer in enumerate(self.layers if GIVES_BACK and is_local else ()):
            slots, first = self.slots[index], int(self.flat_rows(index, sequence, np.array(0)))
            if slots == self.max_length or start == 0:
                give_back(layer, first + min(start, slots), first + min(stop, slots))
        if GIVES_BACK:
            self.length_B[sequence] = min(self.length_B[sequence], start)
            self.oldest_B[sequence] = min(self.oldest_B[sequence], start)
        return GIVES_BACK

    def check_layers(self, layers: tuple[LayerSpec, ...]) -> None:
        """Raise ValueError if this cache does not fit a model with `layers`."""
        specs = [spec.attention for spec in layers]
        expected = [(spec.num_kv_heads, spec.head_dim, spec.v_head_dim) for spec in specs]
        actual = [(kv.k_ZKQ.shape[1], *map(channels, kv[:2])) for kv in self.layers]
        slots = tuple(slots_per_sequence(spec.window, self.max_length) for spec in specs)
        if actual != expected or slots != self.slots:
            raise ValueError("the cache was made by another model: use this one's new_cache")

    def check_positions(self, position_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (start_B, count_B): the first position and the number of tokens of each row.

        In a row, real tokens come first, at consecutive positions from at most `length_B` on, then
        padding at -1. A row may start before its end, which discards the tokens from there on: at
        0, or as far back as the ring buffers still hold the whole window before the start.

        Raises
        ------
        ValueError
            If a step at `position_BT` cannot be computed; the row is named.
        """
        if position_BT.ndim != 2 or len(position_BT) != self.batch_size:
            raise ValueError(
                f"position_BT is {position_BT.shape}, the cache holds {self.batch_size} sequences"
            )
        count_B = np.sum(position_BT >= 0, axis=1)
        start_B = np.where(count_B > 0, position_BT[:, 0], self.length_B)
        index_T = np.arange(position_BT.shape[1])
        expected_BT = np.where(index_T < count_B[:, None], start_B[:, None] + index_T, -1)
        needed_B = np.maximum(start_B - self.window + 1, 0)  # the oldest position in the window
        is_wrong_B = (
            np.any(position_BT != expected_BT, axis=1)
            | (start_B + count_B > self.max_length)
            | (start_B > self.length_B)
            | ((count_B > 0) & (start_B > 0) & (needed_B < self.oldest_B))
        )
        if np.any(is_wrong_B):
            row = int(np.argmax(is_wrong_B))
            start, count, needed = int(start_B[row]), int(count_B[row]), int(needed_B[row])
            wrong_J = np.flatnonzero(position_BT[row] != expected_BT[row])
            raise ValueError(
                f"position_BT row {row}, column {wrong_J[0]} is {position_BT[row, wrong_J[0]]}, "
                "expected consecutive positions from 0 or more, then -1 for padding"
                if wrong_J.size
                else self._refusal(row, start, count, needed)
            )
        return start_B, count_B

    def _refusal(self, row: int, start: int, count: int, needed: int) -> str:
        """Return why `count` tokens from `start` on cannot follow what a row holds."""
        if start + count > self.max_length:
            return (
                f"row {row} reaches position {start + count - 1}, the cache has room for "
                f"{self.max_length} tokens (max_length)"
            )
        if start > self.length_B[row]:
            return (
                f"row {row} starts at position {start}, but the cache holds "
                f"{self.length_B[row]} tokens of it: positions between would be missing"
            )
        return (
            f"row {row} starts at position {start}, but sliding layers hold positions from "
            f"{self.oldest_B[row]} on and need {needed}: at most {MAX_DRAFT_TOKENS} tokens can be "
            "taken back"
        )

    def begin_step(self, start_B: np.ndarray, count_B: np.ndarray) -> None:
        """Record what `count_B` tokens at `start_B` will overwrite, before they do.

        A step that fails afterwards leaves the tokens before it, and no others.
        """
        ring = slots_per_sequence(self.window, self.max_length)
        self.length_B[:] = np.where(count_B > 0, start_B, self.length_B)
        oldest_B = np.where((count_B > 0) & (start_B == 0), 0, self.oldest_B)
        end_B = np.where(count_B > 0, start_B + count_B, 0)
        self.oldest_B[:] = np.maximum(oldest_B, end_B - ring)

    def discard(self, start_B: np.ndarray, to_device: Callable[[Any], Any]) -> None:
        """Empty the slots of each sequence from position `start_B` on; there its tokens end.

        Positions that a step merely masks leave keys and values behind, and 0 x NaN is NaN.
        """
        self.length_B[:] = np.minimum(self.length_B, start_B)
        self.oldest_B[:] = np.minimum(self.oldest_B, start_B)
        start_b = start_B[self.local_rows]
        for layer, slots in zip(self.layers, self.slots, strict=True):
            first, last = self.first_row * slots, (self.first_row + len(start_b)) * slots
            arrays = [part if isinstance(part, np.ndarray) else np.array(part) for part in layer]
            is_discarded_Z = arrays[2][first:last] >= np.repeat(start_b, slots)
            for part, array, empty in zip(layer, arrays, (0, 0, -1), strict=True):
                array[first:last][is_discarded_Z] = empty
                if part is not array:
                    part.handle = to_device(array).handle

    def nonfinite_rows(self, layers: int) -> np.ndarray:
        """Return of each sequence whether this rank's first `layers` hold a bad number of it."""
        is_bad_B, rows = np.zeros(self.batch_size, bool), self.local_rows
        count = rows.stop - rows.start
        for layer, slots in zip(self.layers[:layers], self.slots, strict=False):
            for part in layer[:2]:
                part_Z = np.asarray(part)[self.first_row * slots :][: count * slots]
                is_bad_Z = ~is_finite(part_Z).all(axis=1)
                is_bad_B[rows] |= is_bad_Z.reshape(count, slots).any(axis=1)
        return is_bad_B

    def finish_step(self, count_B: np.ndarray) -> None:
        """Record that the `count_B` tokens after `length_B` have been written."""
        self.length_B[:] += count_B


def new_cache(
    layers: tuple[LayerSpec, ...],
    *,
    batch_size: int,
    max_length: int,
    dtype: Any = np.float32,
    rank_rows: tuple[slice, ...] = (),
    rank: int = 0,
    sequences: int | None = None,
    captured: int = 0,
) -> HybridCache:
    """Return an empty cache for `batch_size` sequences of up to `max_length` tokens.

    Parameters
    ----------
    layers
        The model's layers, with the heads of this rank.
    dtype
        Dtype of keys and values: float32, bfloat16, "fp8" or "int8".
    rank_rows
        The sequences of each data-parallel rank; by default one rank has them all.
    rank
        This rank's index in `rank_rows`.
    sequences
        Number of sequences to make room for; those of this rank if not given.
    captured
        Tokens of a pass to keep beside the rings, where these do not hold them.

    Raises
    ------
    ValueError
        If a size is not positive or the dtype is none of these.
    MemoryError
        If the system refuses arrays of this size.
    """
    batch_size = as_integer("new_cache: batch_size", batch_size)
    max_length = as_integer("new_cache: max_length", max_length)
    if batch_size < 1 or max_length < 1:
        sizes = f"batch_size {batch_size} and max_length {max_length}"
        raise ValueError(f"new_cache: {sizes} must be at least 1")
    dtype = as_cache_dtype("new_cache: dtype", dtype)
    rank_rows = rank_rows or (slice(0, batch_size),)
    if sequences is None:
        sequences = rank_rows[rank].stop - rank_rows[rank].start
    slots = tuple(slots_per_sequence(spec.attention.window, max_length) for spec in layers)
    ring = min(slots)
    captured = -(-captured // ring) * ring  # the flat cache is made of whole sequences
    options: dict[str, Any] = {"sequences": sequences, "max_length": max_length}
    options |= {"dtype": dtype, "captured": captured}
    return HybridCache(
        empty_layers(layers, **options),
        slots,
        max_length,
        min(spec.attention.window for spec in layers),
        KVBytes.of(layers, **options),
        np.zeros(batch_size, np.int64),
        np.zeros(batch_size, np.int64),
        rank_rows,
        rank,
        captured=captured,
    )
