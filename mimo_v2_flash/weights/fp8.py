"""FP8 weights as checkpoints store them, with their scales, as `BlockScaled`.

The hub's weights were quantised on four tensor-parallel ranks, each on its fused [Q | K | V], in
blocks of 128 x 128, and split afterwards. Where a rank's K and V rows are no multiples of 128 (full
layers: one head, 192 + 128 rows), one scale row covers the end of K and the beginning of V:

    k_scale[2g]      K head g, rows   0..127
    k_scale[2g + 1]  K head g, rows 128..191, and V head g, rows 0..63
    v_scale[g]       V head g, rows  64..127

In memory both have a scale row for every 64 rows.

Source: sglang-jax #969 (`_dequant_fused_kv_heads`); SGLang's `QKVParallelLinear` indexes scales by
the rank's fused row; docs/checkpoint.md.
"""

from typing import NamedTuple

import numpy as np

from mimo_v2_flash.kernels.block_scale import BLOCK, BlockScaled

__all__ = [
    "HALF_BLOCK",
    "Heads",
    "block_height",
    "keys_and_values",
    "plain_grid",
    "split_fused",
]

HALF_BLOCK = 64


class Heads(NamedTuple):
    """How many query and KV heads a layer has, and how wide they are."""

    queries: int
    keys: int
    key_width: int
    value_width: int


def plain_grid(name: str, code_OI: np.ndarray, scale_YX: np.ndarray) -> BlockScaled:
    """Return a weight whose scales lie on a plain grid, of 128 rows, or of 64 in prepared files.

    Raises
    ------
    ValueError
        If there is any other number of scale rows or columns; the message names the weight.
    """
    height = block_height(code_OI.shape, scale_YX.shape)
    if height is None:
        grids = " or ".join(str(_grid(code_OI.shape, h)) for h in (BLOCK, HALF_BLOCK))
        raise ValueError(
            f"{name}: {code_OI.shape} has scales {scale_YX.shape}, expected {grids}: blocks of "
            f"{BLOCK} or {HALF_BLOCK} rows"
        )
    return BlockScaled(code_OI, scale_YX, height)


def keys_and_values(
    name: str,
    k: tuple[np.ndarray, np.ndarray],
    v: tuple[np.ndarray, np.ndarray],
    heads: Heads,
) -> tuple[BlockScaled, BlockScaled]:
    """Return w_k and w_v of codes and scales, by the map that the number of scale rows says.

    Raises
    ------
    ValueError
        If the rows fit neither a plain grid nor the crossing map; the message names the layer.
    """
    (k_code, k_scale), (v_code, v_scale) = k, v
    k_height = block_height(k_code.shape, k_scale.shape)
    v_height = block_height(v_code.shape, v_scale.shape)
    if k_height and v_height:
        return BlockScaled(k_code, k_scale, k_height), BlockScaled(v_code, v_scale, v_height)
    K, Q, C = heads.keys, heads.key_width, heads.value_width
    of_k, of_run = -(-Q // BLOCK), -(-(Q + C) // BLOCK)
    of_v = of_run - of_k
    columns = _grid(k_code.shape, BLOCK)[1]
    crossing = (K * of_k, columns), (K * of_v, columns)
    if (k_scale.shape, v_scale.shape) != crossing or Q % HALF_BLOCK or C % HALF_BLOCK:
        plain = _grid(k_code.shape, BLOCK), _grid(v_code.shape, BLOCK)
        raise ValueError(
            f"{name}: k and v have scales {k_scale.shape} and {v_scale.shape}, expected {plain} "
            f"(plain grids) or {crossing} (each head's K and V one run of blocks)"
        )
    parts = [k_scale.reshape(K, of_k, columns), v_scale.reshape(K, of_v, columns)]
    run = np.repeat(np.concatenate(parts, axis=1), 2, axis=1)
    ends = Q // HALF_BLOCK, (Q + C) // HALF_BLOCK
    k_grid = run[:, : ends[0]].reshape(-1, columns)
    v_grid = run[:, ends[0] : ends[1]].reshape(-1, columns)
    return BlockScaled(k_code, k_grid, HALF_BLOCK), BlockScaled(v_code, v_grid, HALF_BLOCK)


def split_fused(
    name: str, code_OI: np.ndarray, scale_YX: np.ndarray, heads: Heads, ranks: int
) -> tuple[BlockScaled, BlockScaled, BlockScaled]:
    """Return w_q, w_k and w_v of MiMo-V2.5's `qkv_proj`: rank after rank, each [q | k | v].

    They are copies: a rank's share of q lies apart from the next rank's.

    Raises
    ------
    ValueError
        If rows or scale rows are not those of `ranks` ranks; the message names the weight.
    """
    H, K, Q, C = heads
    rows = tuple(count // ranks for count in (H * Q, K * Q, K * C))
    rank_rows, columns = sum(rows), _grid(code_OI.shape, BLOCK)[1]
    expected = (ranks * -(-rank_rows // BLOCK), columns)
    fits = len(code_OI) == ranks * rank_rows and scale_YX.shape == expected
    if not fits or K % ranks or any(count % HALF_BLOCK for count in rows):
        raise ValueError(
            f"{name}: {code_OI.shape} with scales {scale_YX.shape}, expected "
            f"{ranks * rank_rows} rows with scales {expected}: {ranks} ranks of [q | k | v]"
        )
    by_rank = code_OI.reshape(ranks, rank_rows, -1)
    grid = np.repeat(scale_YX.reshape(ranks, -1, columns), 2, axis=1)
    made, start = [], 0
    for count in rows:
        end = start + count
        code = by_rank[:, start:end].reshape(ranks * count, -1)
        scale = grid[:, start // HALF_BLOCK : end // HALF_BLOCK].reshape(-1, columns)
        made.append(BlockScaled(code, scale, HALF_BLOCK))
        start = end
    q, k, v = made
    return q, k, v


def block_height(code: tuple[int, ...], scale: tuple[int, ...]) -> int | None:
    """Return the block height that makes scales of shape `scale` a plain grid, or None."""
    return next((h for h in (BLOCK, HALF_BLOCK) if _grid(code, h) == scale), None)


def _grid(code: tuple[int, ...], height: int) -> tuple[int, int]:
    outputs, inputs = code
    return -(-outputs // height), -(-inputs // BLOCK)
