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
from .axes import check_shapes, checked

__all__ = ["KVCache", "prior_tokens", "write_tokens"]


class KVCache(NamedTuple):
    """One layer's flat cache. Position -1 marks an empty row; the last row, trash, keeps it."""

    k_ZKQ: Any
    v_ZKC: Any
    position_Z: Any


def prior_tokens(cache: KVCache, *, sequences: int, kv_length: int) -> KVSegment:
    """Return the first `kv_length` slots of every sequence as a `KVSegment` of views.

    Raises
    ------
    ValueError
        If the rows do not divide into `sequences`, or a sequence has fewer slots than `kv_length`.
    """
    rows = cache.position_Z.shape[0] - 1
    slots = rows // max(1, sequences)
    if sequences < 1 or rows % sequences or not 0 <= kv_length <= slots:
        raise ValueError(
            f"prior_tokens: kv_length {kv_length} and {sequences} sequences do not fit {rows} rows"
        )

    def view(part):
        rows = part[: sequences * slots]
        return np.reshape(rows, (sequences, slots, *rows.shape[1:]))[:, :kv_length]

    return KVSegment(*(view(part) for part in cache))


@checked
def write_tokens(cache: KVCache, k_BTKQ, v_BTKC, position_BT, slot_mapping_BT) -> None:
    """Write a step's tokens into rows `slot_mapping_BT` of `cache`, in place.

    The host computes the rows: `mimo_v2_flash.kv_cache.slot_mapping`. Padding has the trash row,
    and so have tokens that later ones of the step would overwrite in a ring buffer. Call it after
    attention: a read after a write of the same tensor waits.
    """
    B, T, K, Q = k_BTKQ.shape
    check_shapes("write_tokens", {**cache._asdict(), "k_BTKQ": k_BTKQ, "v_BTKC": v_BTKC})
    trash = cache.position_Z.shape[0] - 1
    row_N = np.reshape(slot_mapping_BT, (B * T,))
    position_N = np.where(row_N == trash, -1, np.reshape(position_BT, (B * T,)))
    k_NKQ = np.reshape(k_BTKQ, (B * T, K, Q)).astype(cache.k_ZKQ.dtype)
    v_NKC = np.reshape(v_BTKC, (B * T, K, -1)).astype(cache.v_ZKC.dtype)
    ops.put_rows(cache.k_ZKQ, row_N, k_NKQ)
    ops.put_rows(cache.v_ZKC, row_N, v_NKC)
    ops.put_rows(cache.position_Z, row_N, position_N)
