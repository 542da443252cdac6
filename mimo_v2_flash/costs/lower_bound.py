"""Lower bound of a program's cost: the matmuls of its tokens, one read of weights and KV cache.

A token is multiplied with every weight of its rank once, and with `experts_per_token` experts. A
rank computes, on average, the experts of as many tokens as it dispatches.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

__all__ = ["LowerBound", "ProgramShape", "lower_bound"]


class ProgramShape(NamedTuple):
    """Sizes of one call of a program.

    Attributes
    ----------
    rows, tokens
        Sequences of this rank, and tokens of each.
    local_tokens
        Tokens that this rank dispatches to experts.
    kv_length, window
        Slots that are read, and keys that a token attends to, itself included.
    experts_per_token
        Experts that a token chooses.
    """

    rows: int
    tokens: int
    local_tokens: int
    kv_length: int
    window: int
    experts_per_token: int


class LowerBound(NamedTuple):
    """The least operations of matmuls, and the least bytes of weights and cache that are read."""

    operations: int
    weights: int
    cache: int


def lower_bound(
    weights: Mapping[str, Any], cache: Mapping[str, Any], sizes: ProgramShape
) -> LowerBound:
    """Return the lower bound of a program; weights, of any format, and cache arrays are by path.

    An embedding is no matmul: only the rows of the tokens are read.

    Parameters
    ----------
    weights, cache : mapping of str to array
        What the program reads, by path.
    sizes : ProgramShape
        Sizes of the call.
    """
    tables = {path: array for path, array in weights.items() if "embedding_VD" in path}
    others = {path: array for path, array in weights.items() if path not in tables}
    rows = sum(sizes.rows * sizes.tokens * a.nbytes // a.shape[0] for a in tables.values())
    slots = sizes.rows * min(sizes.kv_length, sizes.window)
    operations = sum(2 * _multiplications(path, array, sizes) for path, array in others.items())
    return LowerBound(
        operations + (_attention(weights, cache, sizes) if weights and cache else 0),
        rows + sum(array.nbytes for array in others.values()),
        sum(slots * array.nbytes // array.shape[0] for array in cache.values()),
    )


def _multiplications(path: str, weight: Any, sizes: ProgramShape) -> int:
    """Return the multiplications of all tokens with one weight."""
    size = prod(weight.shape)
    if len(weight.shape) < 2:
        return 0
    if "experts" in path:
        return int(sizes.local_tokens * sizes.experts_per_token * size // weight.shape[0])
    tokens = sizes.local_tokens if "router" in path else sizes.rows * sizes.tokens
    return int(tokens * size)


def _attention(weights: Mapping[str, Any], cache: Mapping[str, Any], sizes: ProgramShape) -> int:
    """Return the operations of attention: scores and weighted sums of the keys in the window."""
    keys, values = (next(a for p, a in cache.items() if name in p) for name in ("k_Z", "v_Z"))
    out = next(array for path, array in weights.items() if "w_o_" in path)
    heads = out.shape[1] // values.shape[2]
    attended = min(sizes.kv_length + (sizes.tokens + 1) / 2, sizes.window)
    width = heads * (keys.shape[2] + values.shape[2])
    return round(2 * sizes.rows * sizes.tokens * attended * width)
