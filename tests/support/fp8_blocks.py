"""FP8 as the hub's checkpoints have it: 128 x 128 blocks, attention fused per rank before them.

Source: the hub's weights of XiaomiMiMo/MiMo-V2-Flash (q, k and v apart) and MiMo-V2.5 (fused); both
were quantised on each tensor-parallel rank's [Q | K | V], one matrix whose blocks run on over the
boundary of K and V. Written plainly and apart from the package, because it is the package's oracle.
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
    """A matrix as it is stored, and what that stands for."""

    code_OI: np.ndarray  # float8_e4m3fn
    scale_YX: np.ndarray  # float32
    truth_OI: np.ndarray  # float32


def quantize_weights(weights: Arrays, ranks: int, fused: bool) -> tuple[Arrays, Arrays]:
    """Return what is stored, scales included, and what it stands for."""
    float8 = {name: quantise_blocks(w) for name, w in weights.items() if name.endswith(MATRICES)}
    apart: dict[str, Quantised] = {}
    joined: dict[str, Quantised] = {}
    for prefix in [name.removesuffix(QUERY) for name in weights if name.endswith(QUERY)]:
        names = [f"{prefix}{part}_proj.weight" for part in "qkv"]
        parts, whole = quantise_attention(*(weights[name] for name in names), ranks)
        apart |= dict(zip(names, parts, strict=True))
        joined[f"{prefix}qkv_proj.weight"] = whole
    plain = {
        name: w.astype(np.float32 if ROUTER in name else ml_dtypes.bfloat16)
        for name, w in weights.items()
        if name not in float8 | apart
    }
    stored, truth = dict(plain), {name: w.astype(np.float32) for name, w in plain.items()}
    for name, matrix in (float8 | (joined if fused else apart)).items():
        stored |= {name: matrix.code_OI, f"{name}_scale_inv": matrix.scale_YX}
    return stored, truth | {name: m.truth_OI for name, m in (float8 | apart).items()}


def quantise_blocks(w_OI: np.ndarray) -> Quantised:
    """Return `w_OI` with one scale for each 128 x 128 block; the last ones may be partial."""
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
    """Return q, k and v apart as MiMo-V2-Flash stores them, and fused as MiMo-V2.5 does.

    Each rank's [Q | K | V] is quantised as one matrix. Apart, a scale row that K and V share stays
    with K; fused, rank follows rank.
    """
    whole = (q_OD, k_OD, v_OD)
    shares = zip(*(np.split(w_OD, ranks) for w_OD in whole), strict=True)
    fused = [quantise_blocks(np.concatenate(share)) for share in shares]
    q_rows, k_rows, _ = (len(w_OD) // ranks for w_OD in whole)
    cuts = [q_rows, q_rows + k_rows]
    scale_cuts = [-(-cut // BLOCK) for cut in cuts]
    codes, scales, truths = zip(*fused, strict=True)
    parts = zip(_cut(codes, cuts), _cut(scales, scale_cuts), _cut(truths, cuts), strict=True)
    return [Quantised(*part) for part in parts], _join(codes, scales, truths)


def _cut(ranks: Sequence[np.ndarray], cuts: list[int]) -> list[np.ndarray]:
    tasks = (np.split(rank, cuts) for rank in ranks)
    return [np.concatenate(task) for task in zip(*tasks, strict=True)]


def _join(*columns: Sequence[np.ndarray]) -> Quantised:
    return Quantised(*map(np.concatenate, columns))


def check_geometry(config: MiMoConfig, ranks: int) -> None:
    """Refuse a model whose scales cannot lie as those of MiMo-V2-Flash do.

    Raises
    ------
    ValueError
        If head widths are not 192 and 128, heads cannot be shared by the ranks, a rank's query rows
        are no whole blocks, or the number of scale rows would not tell which grid it is.
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
