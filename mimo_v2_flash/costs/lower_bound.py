"""The least that a program must do: its weights once, its filled slots once, its tokens' matmuls.

A token meets every weight of its rank once, and of the experts as many as it chooses: all ranks
together, that is so many per token that a rank takes to them, on average.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["LowerBound", "ProgramShape", "lower_bound"]


class ProgramShape(NamedTuple):
    """What a program is called with.

    Attributes
    ----------
    rows, tokens
        Sequences of this rank, and tokens of each.
    own
        Tokens that this rank takes to the experts.
    filled, window
        Slots that are looked at, and keys that a token sees, itself included.
    experts_per_token
        Those that a token chooses.
    """

    rows: int
    tokens: int
    local_tokens: int
    kv_length: int
    window: int
    experts_per_token: int


class LowerBound(NamedTuple):
    """The operations of matmuls, and bytes of weights and cache that are read."""

    operations: int
    weights: int
    cache: int


def lower_bound(
    weights: Mapping[str, Any], cache: Mapping[str, Any], sizes: ProgramShape
) -> LowerBound:
    """Return the least for a program with these inputs, arrays by their paths.

    Of an embedding only the tokens' rows are read, and nothing is multiplied.
    """
    tables = {path: array for path, array in weights.items() if "embedding" in path}
    others = {path: array for path, array in weights.items() if path not in tables}
    rows = sum(sizes.rows * sizes.tokens * a.nbytes // a.shape[0] for a in tables.values())
    slots = sizes.rows * min(sizes.kv_length, sizes.window)
    operations = sum(2 * _met(path, array, sizes) for path, array in others.items())
    return LowerBound(
        operations + (_attention(weights, cache, sizes) if cache else 0),
        rows + sum(array.nbytes for array in others.values()),
        sum(slots * array.nbytes // array.shape[0] for array in cache.values()),
    )


def _met(path: str, array: Any, sizes: ProgramShape) -> int:
    """Return how many multiplications the tokens need with a weight."""
    if array.ndim < 2 or path.endswith(".scale"):
        return 0
    if "experts" in path:
        return int(sizes.local_tokens * sizes.experts_per_token * array.size // array.shape[0])
    tokens = sizes.local_tokens if "router" in path else sizes.rows * sizes.tokens
    return int(tokens * array.size)


def _attention(weights: Mapping[str, Any], cache: Mapping[str, Any], sizes: ProgramShape) -> int:
    """Return the operations of scores and of their sums of values: as many keys as are seen."""
    keys, values = (next(a for p, a in cache.items() if name in p) for name in ("k_Z", "v_Z"))
    out = next(array for path, array in weights.items() if "w_o_" in path)
    heads = out.shape[1] // values.shape[2]
    seen = min(sizes.kv_length + (sizes.tokens + 1) / 2, sizes.window)
    width = heads * (keys.shape[2] + values.shape[2])
    return round(2 * sizes.rows * sizes.tokens * seen * width)
