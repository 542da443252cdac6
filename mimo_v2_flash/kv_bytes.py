"""Bytes of a KV cache, for the plan of a deployment and for the engine that admits requests.

MiMo in bfloat16: 23,040 bytes per token (full layers) and 26 MB per sequence (rings); in 8 bits
11,664 bytes and 13 MB.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .config import AttentionSpec, LayerSpec
from .cpu.kv_codes import CODE_DTYPES, row_width
from .kv_slots import slots_per_sequence

__all__ = ["KVBytes", "layer_dtype"]

POSITION = np.dtype(np.int32).itemsize
HIDDEN = np.dtype(ml_dtypes.bfloat16)
"""The dtype of hidden states where keys and values are codes."""


def layer_dtype(spec: AttentionSpec, dtype: Any) -> np.dtype:
    """Return the dtype of a layer's rows in a cache: one without queries has hidden states."""
    dtype = np.dtype(dtype)
    return dtype if dtype not in CODE_DTYPES or spec.num_heads else HIDDEN


def slot_bytes(spec: AttentionSpec, dtype: Any) -> int:
    """Return the bytes of a token's keys and values in a layer."""
    stored = layer_dtype(spec, dtype)
    elements = sum(row_width(width, stored) for width in (spec.head_dim, spec.v_head_dim))
    return spec.num_kv_heads * elements * stored.itemsize


class KVBytes(NamedTuple):
    """Bytes of one rank's KV cache, by what they depend on.

    Attributes
    ----------
    fixed
        Bytes that are written whatever the sequences hold: positions of all slots, trash rows and
        captured tokens.
    sequence
        Keys and values in the rings of a sequence, which count as a whole from its first token on.
    token
        Keys and values of one token in the layers that have a slot for every token.
    """

    fixed: int
    sequence: int
    token: int

    @classmethod
    def of(
        cls,
        layers: Iterable[LayerSpec],
        sequences: int,
        max_length: int,
        dtype: Any,
        captured: int = 0,
    ) -> "KVBytes":
        """Return the bytes of a cache of `layers`; other parameters are as in `new_cache`.

        Parameters
        ----------
        layers : iterable of LayerSpec
            The layers that have a cache.
        sequences : int
            Rows of the cache.
        max_length : int
            The most tokens of a sequence.
        dtype : dtype
            Dtype of keys and values.
        captured : int
            Tokens of a pass that are kept beside the rings.
        """
        fixed = sequence = token = 0
        for spec in layers:
            attention = spec.attention
            slots = slots_per_sequence(attention.window, max_length)
            slot, is_ring = slot_bytes(attention, dtype), slots < max_length
            sequence, token = sequence + is_ring * slots * slot, token + (not is_ring) * slot
            rest = 1 + is_ring * captured  # the trash row, and rows beside the rings
            fixed += (sequences * slots + rest) * POSITION + rest * slot
        return cls(fixed, sequence, token)

    def row(self, tokens: int) -> int:
        """Return the bytes of keys and values of a sequence of `tokens` tokens."""
        return self.sequence + self.token * tokens if tokens else 0

    def total(self, sequences: int, tokens: int) -> int:
        """Return the bytes of a cache that holds `sequences` of `tokens` tokens each."""
        return self.fixed + sequences * self.row(tokens)
