"""The cache of one layer, one token after the other.

Row `sequence x S + slot` holds a token; the last row is trash, and its position stays -1.
`cache` is any record of `k_ZKQ`, `v_ZKC` and `position_Z`.

Source: the addressing that is written down in `kernels.kv_cache`; it is this project's own.
"""

import numpy as np

__all__ = ["prior_tokens", "write_tokens"]


def prior_tokens(cache, *, sequences: int, kv_length: int):
    """Return (k_BSKQ, v_BSKC, position_BS): the first `kv_length` slots, copied to float64."""
    slots = (len(cache.position_Z) - 1) // sequences

    def slots_of(part):
        rows = [[part[b * slots + s] for s in range(kv_length)] for b in range(sequences)]
        return np.array(rows, dtype=np.float64).reshape(sequences, kv_length, *part.shape[1:])

    return slots_of(cache.k_ZKQ), slots_of(cache.v_ZKC), slots_of(cache.position_Z)


def write_tokens(cache, k_BTKQ, v_BTKC, position_BT, row_BT) -> None:
    """Write every token into its row, in place."""
    trash = len(cache.position_Z) - 1
    for b, t in np.ndindex(*row_BT.shape):
        row = int(row_BT[b, t])
        cache.k_ZKQ[row] = k_BTKQ[b, t]
        cache.v_ZKC[row] = v_BTKC[b, t]
        cache.position_Z[row] = -1 if row == trash else position_BT[b, t]
