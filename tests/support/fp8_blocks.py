"""Block-scaled FP8 as in the hub's checkpoints: 128 x 128 blocks of each rank's fused [Q | K | V].

Source: the hub's weights of XiaomiMiMo/MiMo-V2-Flash (split q, k and v) and MiMo-V2.5 (fused); both
were quantised on each tensor-parallel rank's [Q | K | V], one matrix whose blocks cross from K into
V. This module shares no code with the package, because it is the package's oracle.
"""

from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig

BLOCK = 128
LARGEST = 448.0  # of E4M3
MATRICES = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")  # of feed-forwards
QUERY = "q_proj.weight"
ROUTER = ".mlp.gate."  # its weight and its bias
KEY_WIDTH, VALUE_WIDTH = 192, 128  # 1.5 blocks and 1: a scale row is half K's and half V's

Arrays = dict[str, np.ndarray]


class Quantised(NamedTuple):
    """A matrix as stored, and its dequantised values."""

    code_OI: np.ndarray  # float8_e4m3fn
    scale_YX: np.ndarray  # float32
    truth_OI: np.ndarray  # float32


def quantize_weights(weights: Arrays, ranks: int, fused: bool) -> tuple[Arrays, Arrays]:
    """Return the stored tensors, scales included, and the dequantised weights."""
    float8 = {name: quantise_blocks(w) for name, w in weights.items() if name.endswith(MATRICES)}
    split: dict[str, Quantised] = {}
    fused_qkv: dict[str, Quantised] = {}
    for prefix in [name.removesuffix(QUERY) for name in weights if name.endswith(QUERY)]:
        names = [f"{prefix}{part}_proj.weight" for part in "qkv"]
        parts, whole = quantise_attention(*(weights[name] for name in names), ranks)
        split |= dict(zip(names, parts, strict=True))
        fused_qkv[f"{prefix}qkv_proj.weight"] = whole
    plain = {
        name: w.astype(np.float32 if ROUTER in name else ml_dtypes.bfloat16)
        for name, w in weights.items()
        if name not in float8 | split
    }
    stored, truth = dict(plain), {name: w.astype(np.float32) for name, w in plain.items()}
    for name, matrix in (float8 | (fused_qkv if fused else split)).items():
        stored |= {name: matrix.code_OI, f"{name}_scale_inv": matrix.scale_YX}
    return stored, truth | {name: m.truth_OI for name, m in (float8 | split).items()}


def quantise_blocks(w_OI: np.ndarray) -> Quantised:
    """Return `w_OI` with one scale per 128 x 128 block; blocks at the edges may be partial."""
    outputs, inputs = w_OI.shape
    scale_YX = np.ones((-(-outputs // BLOCK), -(-inputs // BLOCK)), np.float32)
    code_OI = np.empty(w_OI.shape, ml_dtypes.float8_e4m3fn)
    truth_OI = np.empty(w_OI.shape, np.float32)
    for y, x in np.ndindex(*scale_YX.shape):
        block = np.s_[y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK]
        if peak := np.abs(w_OI[block]).max():
            scale_YX[y, x] = peak / LARGEST
        code_OI[block] = (w_OI[block] / scale_YX[y, x]).astype(code_OI.dtype)
        truth_OI[block] = code_OI[block].astype(np.float32) * scale_YX[y, x]
    return Quantised(code_OI, scale_YX, truth_OI)


def quantise_attention(q_OD, k_OD, v_OD, ranks: int) -> tuple[list[Quantised], Quantised]:
    """Return split q, k and v as MiMo-V2-Flash stores them, and fused qkv as MiMo-V2.5 does.

    Each rank's [Q | K | V] is quantised as one matrix. If split, a scale row that K and V share
    stays with K; if fused, the ranks' matrices are concatenated.
    """
    whole = (q_OD, k_OD, v_OD)
    shards = zip(*(np.split(w_OD, ranks) for w_OD in whole), strict=True)
    fused = [quantise_blocks(np.concatenate(shard)) for shard in shards]
    q_rows, k_rows, _ = (len(w_OD) // ranks for w_OD in whole)
    bounds = [q_rows, q_rows + k_rows]
    scale_bounds = [-(-bound // BLOCK) for bound in bounds]
    codes, scales, truths = zip(*fused, strict=True)
    parts = zip(
        _split(codes, bounds), _split(scales, scale_bounds), _split(truths, bounds), strict=True
    )
    return [Quantised(*part) for part in parts], _join(codes, scales, truths)


def _split(ranks: Sequence[np.ndarray], bounds: list[int]) -> list[np.ndarray]:
    parts_of_ranks = (np.split(rank, bounds) for rank in ranks)
    return [np.concatenate(parts) for parts in zip(*parts_of_ranks, strict=True)]


def _join(*columns: Sequence[np.ndarray]) -> Quantised:
    return Quantised(*map(np.concatenate, columns))


def check_geometry(config: MiMoConfig, ranks: int) -> None:
    """Check that a model's scales can have the layout of MiMo-V2-Flash.

    Raises
    ------
    ValueError
        If head widths are not 192 and 128, heads do not divide over the ranks, a rank's query rows
        are not whole blocks, or the number of scale rows would not tell which grid it is.
    """
    for index, spec in enumerate(config.layers):
        if fault := _fault(spec, ranks):
            raise ValueError(f"layer {index} on {ranks} ranks: {fault}")


def _fault(spec: LayerSpec, ranks: int) -> str | None:
    heads, num_kv_heads = spec.attention.num_heads, spec.attention.num_kv_heads
    widths = (spec.attention.head_dim, spec.attention.v_head_dim)
    if widths != (KEY_WIDTH, VALUE_WIDTH):
        return f"head widths {widths}, expected {(KEY_WIDTH, VALUE_WIDTH)}"
    if heads % ranks or num_kv_heads % ranks:
        return f"{heads} query and {num_kv_heads} KV heads, expected multiples of {ranks}"
    if (rows := heads // ranks * KEY_WIDTH) % BLOCK:
        return f"{rows} query rows on a rank, expected a multiple of {BLOCK}"
    if num_kv_heads == 1 or (num_kv_heads // ranks % 2 and num_kv_heads != ranks):
        return f"{num_kv_heads} KV heads, expected several: one on a rank, or an even number"
    return None
