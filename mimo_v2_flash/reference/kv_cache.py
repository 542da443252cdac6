"""Reference KV cache of one layer: a loop over tokens.

Row `sequence x S + slot` holds a token; the last row is trash, and its position stays -1.
`cache` is any object with `k_ZKQ`, `v_ZKC` and `position_Z`.

Source: the addressing of this project, as `kernels.kv_cache` documents it.
"""

import numpy as np

__all__ = ["prior_tokens", "write_tokens"]


def prior_tokens(cache, *, sequences: int, kv_length: int):
    """Return (k_BSKQ, v_BSKC, position_BS): the first `kv_length` slots, as float64 copies."""
    slots = (len(cache.position_Z) - 1) // sequences

    def first_slots(part):
        rows = [[part[b * slots + s] for s in range(kv_length)] for b in range(sequences)]
        return np.array(rows, dtype=np.float64).reshape(sequences, kv_length, *part.shape[1:])

    return first_slots(cache.k_ZKQ), first_slots(cache.v_ZKC), first_slots(cache.position_Z)


def write_tokens(cache, k_BTKQ, v_BTKC, position_BT, slot_mapping_BT) -> None:
    """Write every token into its row, in place."""
    trash = len(cache.position_Z) - 1
    for b, t in np.ndindex(*slot_mapping_BT.shape):
        row = int(slot_mapping_BT[b, t])
        cache.k_ZKQ[row] = k_BTKQ[b, t]
        cache.v_ZKC[row] = v_BTKC[b, t]
        cache.position_Z[row] = -1 if row == trash else position_BT[b, t]
