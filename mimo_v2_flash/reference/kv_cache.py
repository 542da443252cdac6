"""Reference KV cache of one layer: a loop over tokens.

Row `sequence x S + slot` holds a token; the last row is trash, and its position stays -1.
`cache` is any object with `k_ZKQ`, `v_ZKC` and `position_Z`.

Source: the addressing of this project, as `kernels.kv_cache` documents it.
"""

import numpy as np

__all__ = ["prior_tokens", "write_tokens"]


def prior_tokens(cache, *, slots: int, rows, kv_length: int):
    """Return (k_BSKQ, v_BSKC, position_BS): the first `kv_length` slots, as float64 copies."""

    def first_slots(part):
        values = [[part[row * slots + s] for s in range(kv_length)] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(rows), kv_length, *part.shape[1:])

    return first_slots(cache.k_ZKQ), first_slots(cache.v_ZKC), first_slots(cache.position_Z)


def write_tokens(cache, k_NKQ, v_NKC, position_N, slot_mapping_N) -> None:
    """Write every token into its row, in place."""
    trash = len(cache.position_Z) - 1
    for n, row in enumerate(map(int, slot_mapping_N)):
        cache.k_ZKQ[row] = k_NKQ[n]
        cache.v_ZKC[row] = v_NKC[n]
        cache.position_Z[row] = -1 if row == trash else position_N[n]
