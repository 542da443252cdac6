"""Bytes of a KV cache, for the plan of a deployment and for the engine that admits requests.

MiMo in bfloat16: 23,040 bytes per token (full layers) and 26 MB per sequence (rings).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .config import LayerSpec
from .kv_slots import slots_per_sequence

__all__ = ["KVBytes"]

POSITION = np.dtype(np.int32).itemsize


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
        """Return the bytes of a cache of `layers`; other parameters are as in `new_cache`."""
        fixed = sequence = token = 0
        for spec in layers:
            attention = spec.attention
            slots = slots_per_sequence(attention.window, max_length)
            channels = attention.num_kv_heads * (attention.head_dim + attention.v_head_dim)
            slot, is_ring = channels * np.dtype(dtype).itemsize, slots < max_length
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
