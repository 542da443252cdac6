"""Ragged batches: every row is prefilled in different chunks, and a row that waits is padding."""

from itertools import pairwise, zip_longest

import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash import MiMoV2FlashModel
from mimo_v2_flash.kv_cache import HybridCache


@st.composite
def chunkings(draw, length: int) -> list[int]:
    """Draw chunk lengths with the sum `length`; the row waits in the steps of empty chunks."""
    bounds = sorted(draw(st.lists(st.integers(0, length), max_size=6)))
    return [end - start for start, end in pairwise([0, *bounds, length])]


def ragged(parts, starts) -> tuple[np.ndarray, np.ndarray]:
    """Return (token_BT, position_BT): row b is parts[b] from starts[b] on, then padding."""
    shape = len(parts), max(1, *map(len, parts))
    token_BT, position_BT = np.full(shape, 3, np.int32), np.full(shape, -1, np.int32)
    for row, (part, start) in enumerate(zip(parts, starts, strict=True)):
        token_BT[row, : len(part)] = part
        position_BT[row, : len(part)] = range(start, start + len(part))
    return token_BT, position_BT


def prefill(
    model: MiMoV2FlashModel, cache: HybridCache, rows, chunks, *, start: int = 0
) -> list[np.ndarray]:
    """Return the `logits_TV` of every row after prefilling rows[b] from `start` on in chunks[b]."""
    done, parts = [0] * len(rows), [[] for _ in rows]
    for counts in zip_longest(*chunks, fillvalue=0):
        ends = [begin + count for begin, count in zip(done, counts, strict=True)]
        new = [row[begin:end] for row, begin, end in zip(rows, done, ends, strict=True)]
        step = ragged(new, [start + begin for begin in done])
        for part, logits_TV, count in zip(parts, model.step(*step, cache), counts, strict=True):
            part.append(logits_TV[:count])
        done = ends
    return [np.concatenate(part) for part in parts]
