"""Flat KV cache of one layer: keys, values and positions of the tokens so far.

Row `sequence x S + slot` holds a token of that sequence. One more row at the end, the trash row,
takes the writes of padding. Full layers have a slot for every token, sliding layers a ring buffer.

Source: facts of nkipy: one traced index per write, unique but for a trash row. MiMo in bfloat16:
2,560 bytes per token in a full layer, 5,120 per slot of a ring.
"""

from typing import Any, NamedTuple

import numpy as np

from . import ops
from .attention import KVSegment
from .axes import checked

__all__ = [
    "KVCache",
    "prior_tokens",
    "put_tokens",
    "take_prior_tokens",
    "take_tokens",
    "write_tokens",
]


class KVCache(NamedTuple):
    """One layer's flat cache. Position -1 marks an empty row; the last row, trash, keeps it."""

    k_ZKQ: Any
    v_ZKC: Any
    position_Z: Any


def prior_tokens(cache: KVCache, *, slots: int, rows: range, kv_length: int) -> KVSegment:
    """Return the first `kv_length` slots of the sequences `rows` as a `KVSegment` of views.

    Parameters
    ----------
    cache : KVCache
        A layer's flat cache: a row for each slot of each sequence, and the trash row.
    slots : int
        Slots of a sequence.
    rows : range
        Sequences to return.
    kv_length : int
        Slots of each of them.

    Raises
    ------
    ValueError
        If the flat cache is not made of sequences of `slots`, lacks one of `rows`, or a sequence
        has fewer slots than `kv_length`.
    """
    _check_slots("prior_tokens", cache, slots, kv_length)
    if not 0 <= rows.start <= rows.stop <= (cache.position_Z.shape[0] - 1) // slots:
        raise ValueError(f"prior_tokens: the cache lacks some of the sequences {rows}")

    def view(part):
        part = part[rows.start * slots : rows.stop * slots]
        return np.reshape(part, (len(rows), slots, *part.shape[1:]))[:, :kv_length]

    return KVSegment(*(view(part) for part in cache))


@checked
def take_prior_tokens(cache: KVCache, row_B, *, slots: int, kv_length: int) -> KVSegment:
    """Return `prior_tokens` of the sequences `row_B`, copied: a device array has no views.

    The sequences are data, so that one program serves any sequences of a cache.

    Parameters
    ----------
    cache : KVCache
        A layer's flat cache.
    row_B : array of int32
        Sequences to return.
    slots : int
        Slots of a sequence.
    kv_length : int
        Slots to return of each.

    Raises
    ------
    ValueError
        If the flat cache is not made of sequences of `slots`, or they are fewer than `kv_length`.
    """
    _check_slots("take_prior_tokens", cache, slots, kv_length)
    sequences = range((cache.position_Z.shape[0] - 1) // slots)
    every = prior_tokens(cache, slots=slots, rows=sequences, kv_length=kv_length)
    return KVSegment(*(np.take(part, row_B, axis=0) for part in every))


def _check_slots(kernel: str, cache: KVCache, slots: int, kv_length: int) -> None:
    flat = cache.position_Z.shape[0] - 1
    if slots < 1 or flat % slots or not 0 <= kv_length <= slots:
        raise ValueError(f"{kernel}: kv_length {kv_length} of {slots} slots, {flat} rows in all")


def write_tokens(cache: KVCache, k_NKQ, v_NKC, position_N, slot_mapping_N) -> None:
    """Write a step's tokens into rows `slot_mapping_N` of `cache`, in place.

    The host computes the rows: `mimo_v2_flash.kv_slots.slot_mapping`. Padding has the trash row,
    and so have tokens that later ones of the step would overwrite in a ring buffer. Call it after
    attention: a read after a write of the same tensor waits.

    Parameters
    ----------
    cache : KVCache
        A layer's flat cache.
    k_NKQ, v_NKC : array
        Keys and values of the step; they are cast to the dtype of the cache.
    position_N : array of int32
        Positions of the tokens; -1 is padding.
    slot_mapping_N : array of int32
        Row of the cache for each token.
    """
    k_ZKQ, v_ZKC, position_Z = cache
    _write_tokens(k_ZKQ, v_ZKC, position_Z, k_NKQ, v_NKC, position_N, slot_mapping_N)


@checked
def _write_tokens(k_ZKQ, v_ZKC, position_Z, k_NKQ, v_NKC, position_N, slot_mapping_N) -> None:
    """Write the tokens as `write_tokens` does, once all names are known to fit."""
    position_N = np.where(slot_mapping_N == position_Z.shape[0] - 1, -1, position_N)
    ops.put_rows(k_ZKQ, slot_mapping_N, k_NKQ.astype(k_ZKQ.dtype))
    ops.put_rows(v_ZKC, slot_mapping_N, v_NKC.astype(v_ZKC.dtype))
    ops.put_rows(position_Z, slot_mapping_N, position_N)


def take_tokens(caches: tuple[KVCache, ...], row_N) -> tuple[tuple[Any, Any], ...]:
    """Return the keys and values (k_NKQ, v_NKC) in rows `row_N` of each layer's cache, copied.

    The rows are data, so that one program copies any tokens of the layers.
    """
    return tuple(
        (np.take(cache.k_ZKQ, row_N, axis=0), np.take(cache.v_ZKC, row_N, axis=0))
        for cache in caches
    )


def put_tokens(
    caches: tuple[KVCache, ...], tokens: tuple[tuple[Any, Any], ...], position_N, row_N
) -> Any:
    """Write what `take_tokens` returned into rows `row_N` of each layer's cache, in place.

    Rows that are not to be written are the trash row. Returns a zero: a program has an output.

    Parameters
    ----------
    caches : tuple of KVCache
        Flat caches of layers.
    tokens : tuple of (array, array)
        Keys and values of the tokens, of each layer.
    position_N : array of int32
        Positions of the tokens.
    row_N : array of int32
        Row of each token, in every layer.
    """
    trash = caches[0].position_Z.shape[0] - 1
    position_N = np.where(row_N == trash, -1, position_N)
    for cache, (k_NKQ, v_NKC) in zip(caches, tokens, strict=True):
        ops.put_rows(cache.k_ZKQ, row_N, k_NKQ)
        ops.put_rows(cache.v_ZKC, row_N, v_NKC)
        ops.put_rows(cache.position_Z, row_N, position_N)
    return ops.full(position_N, (1,), 0, np.int32)
