"""FP8 projections that were quantized together: K and V whose scales cross, and fused [q | k | v].

The hub's weights were quantised on four tensor-parallel ranks, each on its fused [Q | K | V], in
blocks of 128 x 128, and split afterwards. Where a rank's K and V rows are not multiples of 128
(full layers: one head, 192 + 128 rows), one scale row covers the end of K and the beginning of V:

    k_scale[2g]      K head g, rows   0..127
    k_scale[2g + 1]  K head g, rows 128..191, and V head g, rows 0..63
    v_scale[g]       V head g, rows  64..127

In memory such K and V have a scale row for every 64 rows.

Source: sglang-jax #969 (`_dequant_fused_kv_heads`); SGLang's `QKVParallelLinear` indexes scales by
the rank's fused row; docs/checkpoint.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np

from .fp8 import BlockScaled, check_scales, widened
from .fp8_grid import BLOCK, HALF_BLOCK, Shapes, block_height, grid, plain_height
from .stored_layout import (
    Heads,
    LayoutPart,
    Projections,
    StoredLayout,
    StoredRows,
    WeightRows,
    WeightShapes,
)

__all__ = [
    "SCALE",
    "crosses",
    "joint_layout",
    "keys_and_values",
    "rank_rows",
    "split_rank",
]

SCALE = "_scale_inv"  # after the name of a weight: the name of its scales


def joint_layout(
    projections: Projections, tensors: Mapping[str, Any], where: Callable[[str], str]
) -> StoredLayout | None:
    """Return the layout of a layer's fused weight, or of k and v whose scales cross; else None.

    Parameters
    ----------
    projections : Projections
        Names and shapes of the layer's q, k and v.
    tensors : mapping of str
        Tensors, or their TensorInfo, by name.
    where : callable
        Returns where a tensor is, for messages.

    Raises
    ------
    ValueError
        If the scale rows of k and v fit neither plain grids nor the crossing map, or those of a
        fused weight are not its ranks'.
    """
    _, k, v, qkv, heads, _ = projections

    def shapes(name: str) -> Shapes:
        return tensors[name].shape, tensors[name + SCALE].shape

    if qkv in tensors:
        is_scaled = qkv + SCALE in tensors
        return _fused_layout(projections, shapes(qkv), where(qkv)) if is_scaled else None
    are_scaled = k + SCALE in tensors and v + SCALE in tensors
    if not are_scaled or not crosses(where(k), shapes(k), shapes(v), heads):
        return None
    return _crossing_layout(projections, {k: shapes(k), v: shapes(v)}, where)


def _crossing_layout(
    projections: Projections, shapes: Mapping[str, Shapes], where: Callable[[str], str]
) -> StoredLayout:
    """Return the layout of K and V that share scale rows: one part; its scales are of 64 rows."""
    k, v = shapes
    rows = tuple(
        StoredRows(name + end, 0, shape[0])
        for name, both in shapes.items()
        for end, shape in zip(("", SCALE), both, strict=True)
    )

    def weights(arrays: Sequence[np.ndarray]) -> list[WeightRows]:
        k_code, k_scale, v_code, v_scale = arrays
        both = keys_and_values(where(k), (k_code, k_scale), (v_code, v_scale), projections.heads)
        for name, weight in zip(shapes, both, strict=True):
            check_scales(where(name) + SCALE, weight)
        return [WeightRows(name, 0, weight) for name, weight in zip(shapes, both, strict=True)]

    def runs(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        by_head = (np.split(code, projections.heads.keys) for code in arrays[::2])
        return list(map(np.concatenate, zip(*by_head, strict=True)))

    outputs = {name: _of_half_blocks(code) for name, (code, _) in shapes.items()}
    return StoredLayout(
        BlockScaled, (k, v), outputs, lambda _: iter([LayoutPart(k, rows, weights)]), runs
    )


def _fused_layout(projections: Projections, shapes: Shapes, where: str) -> StoredLayout:
    """Return the layout of MiMo-V2.5's `qkv_proj`, rank by rank, as q, k and v."""
    (q, k, v, name, heads, ranks), (code, scale) = projections, shapes
    rows = rank_rows(where, shapes, heads, ranks)
    code_rows, scale_rows, columns = sum(rows), scale[0] // ranks, code[1]

    def parts(max_bytes: int | None) -> Iterator[LayoutPart]:
        step = scale_rows if max_bytes is None else max(1, max_bytes // (BLOCK * columns))
        for rank, first in product(range(ranks), range(0, scale_rows, step)):
            start, blocks = first * BLOCK, min(step, scale_rows - first)
            count = min(blocks * BLOCK, code_rows - start)
            stored = (
                StoredRows(name, rank * code_rows + start, count),
                StoredRows(name + SCALE, rank * scale_rows + first, blocks),
            )
            yield LayoutPart(f"{name} {rank} {start}", stored, partial(weights, rank, start))

    def weights(rank: int, start: int, arrays: Sequence[np.ndarray]) -> list[WeightRows]:
        code_OI, scale_YX = arrays
        slices = []
        for part, row, weight in split_rank(code_OI, scale_YX, rows, start):
            check_scales(where + SCALE, weight)
            slices.append(WeightRows((q, k, v)[part], rank * rows[part] + row, weight))
        return slices

    outputs = {
        part: _of_half_blocks((ranks * count, columns))
        for part, count in zip((q, k, v), rows, strict=True)
    }
    return StoredLayout(BlockScaled, (name,), outputs, parts)


def _of_half_blocks(shape: tuple[int, ...]) -> WeightShapes:
    return WeightShapes(shape, {"code": shape, "scale": grid(shape, HALF_BLOCK)})


def keys_and_values(
    name: str,
    k: tuple[np.ndarray, np.ndarray],
    v: tuple[np.ndarray, np.ndarray],
    heads: Heads,
) -> tuple[BlockScaled, BlockScaled]:
    """Return w_k and w_v from codes and scales; the number of scale rows tells how they are mapped.

    Parameters
    ----------
    name : str
        Name of the layer, for messages.
    k, v : tuple of (array, array)
        Codes and scales.
    heads : Heads
        Numbers and widths of the layer's heads.

    Raises
    ------
    ValueError
        If the scale rows fit neither plain grids nor the crossing map; the message names the layer.
    """
    (k_code, v_code), (k_scale, v_scale) = (k[0], v[0]), (widened(k[1]), widened(v[1]))
    shapes = (k_code.shape, k_scale.shape), (v_code.shape, v_scale.shape)
    if not crosses(name, *shapes, heads):
        return _plain(name, k_code, k_scale), _plain(name, v_code, v_scale)
    K, columns = heads.keys, k_scale.shape[1]
    by_head = [scale.reshape(K, len(scale) // K, columns) for scale in (k_scale, v_scale)]
    run = np.repeat(np.concatenate(by_head, axis=1), 2, axis=1)
    end_of_k = heads.head_dim // HALF_BLOCK
    end_of_v = end_of_k + heads.v_head_dim // HALF_BLOCK
    k_grid = run[:, :end_of_k].reshape(-1, columns)
    v_grid = run[:, end_of_k:end_of_v].reshape(-1, columns)
    return BlockScaled(k_code, k_grid, HALF_BLOCK), BlockScaled(v_code, v_grid, HALF_BLOCK)


def crosses(name: str, k: Shapes, v: Shapes, heads: Heads) -> bool:
    """Return whether scale rows cross from K into V; if not, both are on plain grids.

    Parameters
    ----------
    name : str
        Name of the layer, for messages.
    k, v : Shapes
        Shapes of codes and scales.
    heads : Heads
        Numbers and widths of the layer's heads.

    Raises
    ------
    ValueError
        If the scale rows fit neither; the message begins with `name`.
    """
    if block_height(k, v):
        return False
    (k_code, k_scale), (v_code, v_scale) = k, v
    K, Q, C = heads.keys, heads.head_dim, heads.v_head_dim
    k_rows, run_rows = -(-Q // BLOCK), -(-(Q + C) // BLOCK)
    columns = grid(k_code, BLOCK)[1]
    crossing = (K * k_rows, columns), (K * (run_rows - k_rows), columns)
    if (k_scale, v_scale) != crossing or Q % HALF_BLOCK or C % HALF_BLOCK:
        plain = grid(k_code, BLOCK), grid(v_code, BLOCK)
        raise ValueError(
            f"{name}: k and v have scales {k_scale} and {v_scale}, expected {plain} "
            f"(plain grids) or {crossing} (each head's K and V one run of blocks)"
        )
    return True


def split_rank(
    code_OI: np.ndarray, scale_YX: np.ndarray, rows: tuple[int, int, int], start: int
) -> Iterator[tuple[int, int, BlockScaled]]:
    """Yield the slices of q, k and v in some rows of one rank of a fused weight.

    Each is 0, 1 or 2 for q, k or v, its first row among the rank's rows of that part, and values.

    Parameters
    ----------
    code_OI, scale_YX
        Rows of the rank from `start` on, which is a multiple of 128, and their scales.
    rows
        How many rows of q, k and v the rank has.
    start
        First of the rank's rows that are read.
    """
    halves = np.repeat(widened(scale_YX), BLOCK // HALF_BLOCK, axis=0)
    for part, (begin, end) in enumerate(pairwise(accumulate(rows, initial=0))):
        first, last = max(begin - start, 0), min(end - start, len(code_OI))
        if first < last:
            scale = halves[first // HALF_BLOCK : last // HALF_BLOCK]
            yield part, start + first - begin, BlockScaled(code_OI[first:last], scale, HALF_BLOCK)


def rank_rows(name: str, shapes: Shapes, heads: Heads, ranks: int) -> tuple[int, int, int]:
    """Return how many rows of q, k and v each of the ranks of a fused weight has.

    Parameters
    ----------
    name : str
        Name of the weight, for messages.
    shapes : Shapes
        Shapes of codes and scales.
    heads : Heads
        Numbers and widths of the layer's heads.
    ranks : int
        Ranks whose rows follow each other.

    Raises
    ------
    ValueError
        If the rows or scale rows are not those of `ranks` ranks; the message names the weight.
    """
    (H, K, Q, C), (code, scale) = heads, shapes
    q, k, v = (count // ranks for count in (H * Q, K * Q, K * C))
    expected = (ranks * -(-(q + k + v) // BLOCK), grid(code, BLOCK)[1])
    fits = code[0] == ranks * (q + k + v) and scale == expected
    if not fits or H % ranks or K % ranks or any(count % HALF_BLOCK for count in (q, k, v)):
        raise ValueError(
            f"{name}: {code} with scales {scale}, expected {ranks * (q + k + v)} rows with scales "
            f"{expected}: {ranks} ranks of [q | k | v]"
        )
    return q, k, v


def _plain(name: str, code_OI: np.ndarray, scale_YX: np.ndarray) -> BlockScaled:
    return BlockScaled(code_OI, scale_YX, plain_height(name, code_OI.shape, scale_YX.shape))
