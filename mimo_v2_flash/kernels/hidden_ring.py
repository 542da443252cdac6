"""Hidden states of the latest tokens, which MTP heads read: a ring of the KV cache.

A row's key is the first half of a hidden state and its value the second, so that whatever copies,
keeps and counts keys and values does so with hidden states.

Source: the addressing of this project, as `kernels.kv_cache` documents it.
"""

from typing import Any

import numpy as np

from . import ops
from .axes import checked
from .kv_cache import KVCache, write_tokens

__all__ = ["take_hidden", "write_hidden"]


def take_hidden(cache: KVCache, row_N):
    """Return `hidden_ND`, float32: the hidden states in rows `row_N`."""
    return _take_hidden(cache.k_ZKQ, cache.v_ZKC, row_N)


@checked
def _take_hidden(k_ZKQ, v_ZKC, row_N):
    halves = (
        np.reshape(np.take(part, row_N, axis=0), (row_N.shape[0], part.shape[2]))
        for part in (k_ZKQ, v_ZKC)
    )
    return np.concatenate(list(halves), axis=1).astype(np.float32)


def write_hidden(cache: KVCache, x_ND, position_N, slot_mapping_N) -> Any:
    """Write the hidden states of a pass, in place, as `write_tokens` writes keys and values.

    Returns a zero: a program has an output.

    Parameters
    ----------
    cache : KVCache
        The ring of the hidden states.
    x_ND : array
        Hidden states of the pass.
    position_N : array of int32
        Positions of its tokens; -1 is padding.
    slot_mapping_N : array of int32
        Row of the ring for each token; the trash row for those that are not kept.
    """
    (N, D), half = x_ND.shape, cache.k_ZKQ.shape[2]
    first_NKQ = np.reshape(x_ND[:, :half], (N, 1, half))
    second_NKC = np.reshape(x_ND[:, half:], (N, 1, D - half))
    write_tokens(cache, first_NKQ, second_NKC, position_N, slot_mapping_N)
    return ops.full(position_N, (1,), 0, np.int32)
