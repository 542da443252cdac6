"""Hybrid KV cache: all tokens in full layers, a ring buffer of the last ones in sliding layers.

Each layer has one flat array of its final size; memory pages that no token has touched cost
nothing. All integer arithmetic of slots and rows is in this module and runs on the host.

MiMo in bfloat16: 23,040 bytes per token (full layers) and 26 MB per sequence (ring buffers).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .config import LayerSpec
from .inputs import as_float
from .kernels.kv_cache import KVCache

__all__ = ["MAX_DRAFT_TOKENS", "HybridCache", "new_cache", "slot_mapping", "slots_per_sequence"]

MAX_DRAFT_TOKENS = 3
"""The most draft tokens in a step of speculative decoding; as many can be rolled back after it."""


@dataclass
class HybridCache:
    """The KV caches of all layers for one batch of sequences, and the length of each sequence.

    Attributes
    ----------
    layers
        One flat cache per decoder layer.
    slots
        Slots per sequence in each layer.
    max_length
        The most tokens that a sequence may have.
    window
        Keys that a token of a sliding layer attends to, itself included.
    length_B
        Tokens that each sequence has; the next step starts at this position or before it.
    oldest_B
        The oldest position of each sequence that the ring buffers still hold.
    local_rows
        The sequences whose keys and values are in `layers`. Other ranks hold the others; every
        rank has the length of every sequence.
    """

    layers: tuple[KVCache, ...]
    slots: tuple[int, ...]
    max_length: int
    window: int
    length_B: np.ndarray = field(repr=False)
    oldest_B: np.ndarray = field(repr=False)
    local_rows: slice

    @property
    def batch_size(self) -> int:
        """Number of sequences, B, on all ranks."""
        return len(self.length_B)

    @property
    def nbytes(self) -> int:
        """Bytes allocated; the system gives memory only to pages that were written."""
        return sum(part.nbytes for layer in self.layers for part in layer)

    def check_layers(self, layers: tuple[LayerSpec, ...]) -> None:
        """Raise ValueError if this cache does not fit a model with `layers`."""
        expected = [
            (spec.attention.num_kv_heads, spec.attention.head_dim, spec.attention.v_head_dim)
            for spec in layers
        ]
        actual = [(*kv.k_ZKQ.shape[1:], kv.v_ZKC.shape[2]) for kv in self.layers]
        slots = tuple(slots_per_sequence(spec.attention.window, self.max_length) for spec in layers)
        if actual != expected or slots != self.slots:
            raise ValueError("the cache was made by another model: use this one's new_cache")

    def check_positions(self, position_BT: np.ndarray) -> None:
        """Raise ValueError, naming the row, if a step at `position_BT` cannot be computed.

        In a row, real tokens come first, at consecutive positions from at most `length_B` on, then
        padding at -1. A row may start before its end, which discards the tokens from there on: at
        0, or as far back as the ring buffers still hold the whole window before the start.
        """
        if position_BT.ndim != 2 or len(position_BT) != self.batch_size:
            raise ValueError(
                f"position_BT is {position_BT.shape}, the cache holds {self.batch_size} sequences"
            )
        count_B = np.sum(position_BT >= 0, axis=1)
        for row, (position_T, count) in enumerate(zip(position_BT, count_B, strict=True)):
            self._check_row(row, position_T, int(count))

    def _check_row(self, row: int, position_T: np.ndarray, count: int) -> None:
        start = int(position_T[0]) if count else 0
        expected_T = np.full(position_T.shape, -1)
        expected_T[:count] = np.arange(start, start + count)
        if not np.array_equal(position_T, expected_T):
            raise ValueError(
                f"position_BT row {row} is {position_T.tolist()}, expected consecutive positions "
                "from 0 or more, then -1 for padding"
            )
        if start + count > self.max_length:
            raise ValueError(
                f"row {row} reaches position {start + count - 1}, the cache has room for "
                f"{self.max_length} tokens (max_length)"
            )
        if start > self.length_B[row]:
            raise ValueError(
                f"row {row} starts at position {start}, but the cache holds "
                f"{self.length_B[row]} tokens of it: positions between would be missing"
            )
        if count and start and max(0, start - self.window + 1) < self.oldest_B[row]:
            raise ValueError(
                f"row {row} starts at position {start}, but sliding layers hold positions from "
                f"{self.oldest_B[row]} on and need {max(0, start - self.window + 1)}: at most "
                f"{MAX_DRAFT_TOKENS} tokens can be taken back"
            )

    def begin_step(self, position_BT: np.ndarray) -> None:
        """Record what a step at `position_BT` will overwrite, before it does.

        A step that fails afterwards leaves the tokens before it, and no others.
        """
        start_B, end_B = position_BT[:, 0], np.max(position_BT, axis=1) + 1
        self.length_B[:] = np.where(start_B >= 0, start_B, self.length_B)
        ring = slots_per_sequence(self.window, self.max_length)
        oldest_B = np.where(start_B == 0, 0, self.oldest_B)
        self.oldest_B[:] = np.maximum(oldest_B, end_B - ring)

    def finish_step(self, position_BT: np.ndarray) -> None:
        """Record that the tokens of a step at `position_BT` have been written."""
        end_B = np.max(position_BT, axis=1) + 1
        self.length_B[:] = np.where(end_B > 0, end_B, self.length_B)


def slots_per_sequence(window: int, max_length: int) -> int:
    """Return a layer's slots per sequence: `max_length`, or a ring if that is shorter."""
    return min(max_length, window + MAX_DRAFT_TOKENS)


def new_cache(
    layers: tuple[LayerSpec, ...],
    *,
    batch_size: int,
    max_length: int,
    dtype: Any = np.float32,
    local_rows: slice = slice(None),
) -> HybridCache:
    """Return an empty cache for `batch_size` sequences of up to `max_length` tokens.

    Parameters
    ----------
    layers
        The model's layers, with the heads of this rank.
    dtype
        Dtype of keys and values: float32 or bfloat16.
    local_rows
        The sequences of this rank.

    Raises
    ------
    ValueError
        If a size is not positive or the dtype is neither of the two.
    """
    if batch_size < 1 or max_length < 1:
        raise ValueError(
            f"new_cache: batch_size {batch_size} and max_length {max_length} must be at least 1"
        )
    dtype = as_float("new_cache: dtype", dtype)
    slots = tuple(slots_per_sequence(spec.attention.window, max_length) for spec in layers)
    caches, sequences = [], len(range(batch_size)[local_rows])
    for spec, slot_count in zip(layers, slots, strict=True):
        attention, flat = spec.attention, sequences * slot_count + 1
        caches.append(
            KVCache(
                np.zeros((flat, attention.num_kv_heads, attention.head_dim), dtype),
                np.zeros((flat, attention.num_kv_heads, attention.v_head_dim), dtype),
                np.full(flat, -1, np.int32),
            )
        )
    return HybridCache(
        tuple(caches),
        slots,
        max_length,
        min(spec.attention.window for spec in layers),
        np.zeros(batch_size, np.int64),
        np.zeros(batch_size, np.int64),
        local_rows,
    )


def slot_mapping(position_BT: np.ndarray, slots: int) -> np.ndarray:
    """Return `slot_mapping_BT`, int32: each token's row of a flat cache.

    A sequence's rows are its slots: position mod `slots`. Padding, and tokens that later ones of
    the same step would overwrite, go to the trash row, which is the last one.
    """
    B = len(position_BT)
    first_B1 = np.arange(B)[:, None] * slots
    last_B1 = np.max(position_BT, axis=1, keepdims=True, initial=-1)
    kept_BT = (position_BT >= 0) & (position_BT > last_B1 - slots)
    return np.where(kept_BT, first_B1 + position_BT % slots, B * slots).astype(np.int32)
