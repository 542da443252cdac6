"""Memory pages of a layer's KV cache: they take memory when written, and can be given back.

An array is an anonymous mapping without reserve: NumPy's zeros are refused where one array is
larger than the machine's memory, though few of its pages are ever written.

Rows larger than a huge page (2 MB) have pages of 4 kB. NumPy asks for huge ones, of which a single
token takes two in each full layer: 32 rows of 10 tokens in four arrays, 4 MB, took 260 MB. Arrays
of smaller rows are written densely, and huge pages are filled in a third of the time.
"""

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from rich.filesize import decimal

from .config import AttentionSpec, LayerSpec
from .cpu.kv_codes import row_width
from .kernels.kv_cache import KVCache
from .kv_bytes import KVBytes, layer_dtype
from .kv_slots import slots_per_sequence

__all__ = ["GIVES_BACK", "empty_layers", "give_back"]

GIVES_BACK = sys.platform == "linux"
"""Whether the system takes pages back at once, and returns zeros for them."""

PAGE, HUGE_PAGE = mmap.PAGESIZE, 1 << 21
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000) if GIVES_BACK else 0  # named from Python 3.13


def empty_layers(
    layers: tuple[LayerSpec, ...],
    *,
    sequences: int,
    max_length: int,
    dtype: np.dtype[Any],
    captured: int = 0,
) -> tuple[KVCache, ...]:
    """Return the caches of all layers, without a token; parameters are as in `new_cache`.

    Parameters
    ----------
    layers : tuple of LayerSpec
        The layers.
    sequences : int
        Rows of the cache.
    max_length : int
        The most tokens of a sequence.
    dtype : dtype
        Dtype of keys and values.
    captured : int
        Tokens of a pass that are kept beside the rings.

    Raises
    ------
    MemoryError
        If the system refuses so many addresses.
    """
    size = KVBytes.of(layers, sequences, max_length, dtype, captured).total(sequences, max_length)
    try:
        return tuple(
            _empty(spec.attention, sequences, max_length, captured, dtype) for spec in layers
        )
    except (OSError, MemoryError, OverflowError):
        raise MemoryError(
            f"the arrays of a KV cache of {sequences} sequences of {max_length} tokens have "
            f"{decimal(size)}, which the system refuses: lower the number of sequences or the "
            "length (max_sequences, max_length)"
        ) from None


def _empty(
    spec: AttentionSpec, sequences: int, max_length: int, captured: int, dtype: np.dtype[Any]
) -> KVCache:
    slots, dtype = slots_per_sequence(spec.window, max_length), layer_dtype(spec, dtype)
    rows = sequences * slots + captured * (slots < max_length) + 1
    return KVCache(
        _zeros((rows, spec.num_kv_heads, row_width(spec.head_dim, dtype)), slots, dtype),
        _zeros((rows, spec.num_kv_heads, row_width(spec.v_head_dim, dtype)), slots, dtype),
        np.full(rows, -1, np.int32),
    )


def give_back(layer: KVCache, start: int, stop: int) -> None:
    """Empty the rows from `start` to `stop` - 1, and give their whole pages to the system.

    Keys and values are zeros then. Neighbours keep what they have: a page that they share stays.

    Parameters
    ----------
    layer : KVCache
        A layer's flat cache.
    start, stop : int
        First row, and the row behind the last.
    """
    for array in layer[:2]:
        pages: Any = array.base
        first, last = start * array[0].nbytes, stop * array[0].nbytes
        begin, end = -(-first // PAGE) * PAGE, last // PAGE * PAGE
        if begin < end:
            pages.madvise(mmap.MADV_DONTNEED, begin, end - begin)
        else:
            begin = end = last
        pages[first:begin], pages[end:last] = bytes(begin - first), bytes(last - end)
    layer.position_Z[start:stop] = -1


def _zeros(shape: tuple[int, int, int], slots: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Return zeros whose pages take memory when they are written."""
    row = int(np.prod(shape[1:])) * dtype.itemsize
    pages = mmap.mmap(-1, shape[0] * row, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
    if GIVES_BACK:
        advice = mmap.MADV_HUGEPAGE if slots * row < HUGE_PAGE else mmap.MADV_NOHUGEPAGE
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(advice)
    return np.ndarray(shape, dtype, buffer=pages)
