"""FP8 weights of a checkpoint as `BlockScaled`: q, k and v apart, crossing, or fused.

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

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization.fp8 import (
    BLOCK,
    HALF_BLOCK,
    BlockScaled,
    Shapes,
    block_height,
    grid,
    plain_grid,
    widened,
)

from . import param_specs
from .param_specs import SCALE

__all__ = [
    "HALF_BLOCK",
    "BlockScaled",
    "CrossingKV",
    "FusedQKV",
    "Heads",
    "Shapes",
    "block_height",
    "crosses",
    "crossing_keys",
    "joined_projections",
    "keys_and_values",
    "plain_grid",
    "rank_rows",
    "split_fused",
    "split_rank",
]


class Heads(NamedTuple):
    """Numbers and widths of a layer's query and KV heads."""

    queries: int
    keys: int
    head_dim: int
    v_head_dim: int


class CrossingKV(NamedTuple):
    """The names of k and v where scale rows of k go on into v."""

    k: str
    v: str
    heads: Heads


class FusedQKV(NamedTuple):
    """The name of MiMo-V2.5's `qkv_proj`: [q | k | v] of each of some tensor-parallel ranks."""

    qkv: str
    heads: Heads
    ranks: int


def joined_projections(
    prefix: str,
    spec: LayerSpec,
    config: MiMoConfig,
    tensors: Mapping[str, Any],
    where: Callable[[str], str],
    shard_spec: ShardSpec = UNSHARDED,
) -> CrossingKV | FusedQKV | None:
    """Return which of a layer's q, k and v must be read together; None if each has its own scales.

    Parameters
    ----------
    prefix, spec
        The layer.
    config
        The whole model.
    tensors
        What has a `shape`, by name: arrays or TensorInfos.
    where
        Returns the beginning of messages about the tensor of a name.
    shard_spec
        The part of the model in the checkpoint: where heads are split, scales do not cross.

    Raises
    ------
    ValueError
        If the scale rows of k and v fit neither plain grids nor the crossing map.
    """
    a = spec.attention
    heads = Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
    fused = f"{prefix}.{param_specs.FUSED}"
    if fused in tensors:
        return FusedQKV(fused, heads, config.num_key_value_heads)
    _, k, v, *_ = (param.name for param in param_specs.attention(prefix, a, spec.hidden_size))
    are_scaled = k + SCALE in tensors and v + SCALE in tensors
    if not are_scaled or shard_spec.tensor_parallel_size > 1:
        return None
    k_shapes, v_shapes = ((tensors[n].shape, tensors[n + SCALE].shape) for n in (k, v))
    return CrossingKV(k, v, heads) if crosses(where(k), k_shapes, v_shapes, heads) else None


def crossing_keys(config: MiMoConfig) -> set[str]:
    """Return the names of the k weights whose last scale row covers rows of v too, on the hub."""
    names = set()
    for index, spec in enumerate(config.layers):
        a = spec.attention
        ends_in_half = a.head_dim % BLOCK and not (a.head_dim % HALF_BLOCK or a.v_head_dim % BLOCK)
        if ends_in_half and a.num_kv_heads == config.num_key_value_heads:
            names.add(param_specs.attention(f"model.layers.{index}", a, spec.hidden_size)[1].name)
    return names


def keys_and_values(
    name: str,
    k: tuple[np.ndarray, np.ndarray],
    v: tuple[np.ndarray, np.ndarray],
    heads: Heads,
) -> tuple[BlockScaled, BlockScaled]:
    """Return w_k and w_v from codes and scales; the number of scale rows tells how they are mapped.

    Raises
    ------
    ValueError
        If the scale rows fit neither plain grids nor the crossing map; the message names the layer.
    """
    (k_code, v_code), (k_scale, v_scale) = (k[0], v[0]), (widened(k[1]), widened(v[1]))
    shapes = (k_code.shape, k_scale.shape), (v_code.shape, v_scale.shape)
    if not crosses(name, *shapes, heads):
        return plain_grid(name, k_code, k_scale), plain_grid(name, v_code, v_scale)
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


def split_fused(
    name: str, code_OI: np.ndarray, scale_YX: np.ndarray, heads: Heads, ranks: int
) -> tuple[BlockScaled, BlockScaled, BlockScaled]:
    """Return w_q, w_k and w_v of MiMo-V2.5's `qkv_proj`: rank after rank, each [q | k | v].

    They are copies, since a rank's rows of q are not next to the next rank's.

    Raises
    ------
    ValueError
        If the rows or scale rows are not those of `ranks` ranks; the message names the weight.
    """
    rows = rank_rows(name, (code_OI.shape, scale_YX.shape), heads, ranks)
    by_rank = zip(np.split(code_OI, ranks), np.split(scale_YX, ranks), strict=True)
    weights = [[w for _, _, w in split_rank(code, scale, rows, 0)] for code, scale in by_rank]
    q, k, v = (
        BlockScaled(
            np.concatenate([w.code for w in slices]),
            np.concatenate([w.scale for w in slices]),
            HALF_BLOCK,
        )
        for slices in zip(*weights, strict=True)
    )
    return q, k, v


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
    """
    halves = np.repeat(widened(scale_YX), BLOCK // HALF_BLOCK, axis=0)
    for part, (begin, end) in enumerate(pairwise(accumulate(rows, initial=0))):
        first, last = max(begin - start, 0), min(end - start, len(code_OI))
        if first < last:
            scale = halves[first // HALF_BLOCK : last // HALF_BLOCK]
            yield part, start + first - begin, BlockScaled(code_OI[first:last], scale, HALF_BLOCK)


def rank_rows(name: str, shapes: Shapes, heads: Heads, ranks: int) -> tuple[int, int, int]:
    """Return how many rows of q, k and v each of the ranks of a fused weight has.

    Raises
    ------
    ValueError
        As for `split_fused`.
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
