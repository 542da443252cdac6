"""Checks of `--mode test`: each kernel on small random inputs, compared with its float64 oracle.

Head widths, rotary channels and window are MiMo's (192 and 128, 64, 129); all else is small, since
oracles are plain loops.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.hidden_ring import take_hidden, write_hidden
from mimo_v2_flash.kernels.kv_cache import KVCache, prior_tokens, write_tokens
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.quantization.fp8 import BlockScaled, quantize
from mimo_v2_flash.reference import fp8 as scale_oracle
from mimo_v2_flash.reference import kv_cache as cache_oracle

from .check import Check, Pairs, Random, beside_oracle, normal
from .format_checks import FORMAT_CHECKS
from .moe_checks import MOE_CHECKS

__all__ = ["CHECKS"]

Q, C, ROTARY_DIM, WINDOW, D = 192, 128, 64, 129, 24


def _rmsnorm(random: Random) -> Pairs:
    x_ND, weight_D = normal(random, 6, 64), normal(random, 64)
    return beside_oracle("rmsnorm", "rmsnorm", x_ND, weight_D, epsilon=1e-5)


def _softmax(random: Random) -> Pairs:
    score_BKGTS, visible_BTS = normal(random, 2, 2, 3, 4, 5), random.random((2, 4, 5)) < 0.5
    return beside_oracle("softmax", "softmax", score_BKGTS, visible_BTS, normal(random, 6))


def _rope_partial(random: Random) -> Pairs:
    x_NHQ = normal(random, 6, 2, Q)
    position_N = random.integers(0, 4000, 6, dtype=np.int32)
    cos_LR, sin_LR = rope_table(length=4000, rotary_dim=ROTARY_DIM, theta=5e6)
    return beside_oracle("rope_partial", "rope_partial", x_NHQ, position_N, cos_LR, sin_LR)


def _token_embedding(random: Random) -> Pairs:
    token_N = random.integers(0, 50, 6, dtype=np.int32)
    return beside_oracle("token_embedding", "token_embedding", token_N, normal(random, 50, D))


def _lm_head(random: Random) -> Pairs:
    return beside_oracle("lm_head", "lm_head", normal(random, 3, D), normal(random, 50, D))


def _attention(random: Random, name: str, prior: int, **static: Any) -> Pairs:
    """Check two rows after `prior` cached tokens: one starts a position earlier and is padded."""
    B, T, H, K = 2, 5, 4, 2
    position_BT = prior + np.arange(T, dtype=np.int32) - np.array([[0], [1]], np.int32)
    position_BT[1, -2:] = -1
    sink_H = normal(random, H) if "window" in static else np.full(H, NO_SINK, np.float32)
    return beside_oracle(
        name,
        name,
        normal(random, B, T, H, Q),
        normal(random, B, T, K, Q),
        normal(random, B, T, K, C),
        position_BT,
        normal(random, B, prior, K, Q),
        normal(random, B, prior, K, C),
        np.tile(np.arange(prior, dtype=np.int32), (B, 1)),
        sink_H,
        query_block=2,
        **static,
    )


def _kv_cache(random: Random) -> Pairs:
    actual, expected = (_empty_cache(sequences=2, slots=3, heads=2) for _ in range(2))
    position_N = np.array([4, 5, 3, -1], np.int32)
    slot_mapping_N = np.array([1, 2, 3, 6], np.int32)
    tokens = normal(random, 4, 2, Q), normal(random, 4, 2, C), position_N, slot_mapping_N
    write_tokens(actual, *tokens)
    cache_oracle.write_tokens(expected, *tokens)
    reads: dict[str, Any] = {"slots": 3, "rows": range(2), "kv_length": 3}
    expected_read = cache_oracle.prior_tokens(expected, **reads)
    return list(zip(prior_tokens(actual, **reads), expected_read, strict=True))


def _hidden_ring(random: Random) -> Pairs:
    first_ZKQ, second_ZKC = (np.zeros((6, 1, half), np.float32) for half in (13, 12))
    ring = KVCache(first_ZKQ, second_ZKC, np.full(6, -1, np.int32))
    x_ND, row_N = normal(random, 3, 25), np.array([4, 0, 2], np.int32)
    write_hidden(ring, x_ND, np.arange(3, dtype=np.int32), row_N)
    return [(take_hidden(ring, row_N), x_ND)]


def _mtp_input(random: Random) -> Pairs:
    parts = normal(random, 4, D), normal(random, 4, D), normal(random, D), normal(random, D)
    return beside_oracle("mtp_input", "mtp_input", *parts, normal(random, D, 2 * D), epsilon=1e-5)


def _empty_cache(*, sequences: int, slots: int, heads: int) -> KVCache:
    rows = sequences * slots + 1
    k_ZKQ, v_ZKC = (np.zeros((rows, heads, width), np.float32) for width in (Q, C))
    return KVCache(k_ZKQ, v_ZKC, np.full(rows, -1, np.int32))


def _decoded_codes(_: Random) -> Pairs:
    code_OI = np.array([[code for code in range(256) if code & 0x7F != 0x7F]], np.uint8)
    all_codes = BlockScaled(code_OI, np.ones((1, 2), np.float32))
    return [(all_codes.dequantize(), scale_oracle.dequantize(all_codes))]


def _scaled_matmul(random: Random) -> Pairs:
    w = quantize(normal(random, 70, 150), block_height=64)
    x_NI = normal(random, 3, 150)
    return [(ops.matmul(x_NI, w), x_NI.astype(np.float64) @ scale_oracle.dequantize(w).T)]


def _quantize(random: Random) -> Pairs:
    w_OI = normal(random, 20, 150)
    code_OI, scale_YX = scale_oracle.quantize(w_OI, block_height=8)
    actual = quantize(w_OI, block_height=8)
    expected = SimpleNamespace(code=code_OI, scale=scale_YX, block_height=8)
    return [(actual.dequantize(), scale_oracle.dequantize(expected))]


def _sampling(random: Random) -> Pairs:
    logits_NV = normal(random, 3, 50)
    best = beside_oracle("sampling", "greedy", logits_NV)
    return best + beside_oracle("sampling", "top_k", logits_NV, k=5)


CHECKS = (
    Check("rmsnorm", "unit mean square, epsilon 1e-5", 1e-6, _rmsnorm),
    Check("softmax", "masks, a sink per head", 1e-6, _softmax),
    Check("rope_partial", "64 of 192 channels, positions to 4,000", 1e-6, _rope_partial),
    Check("token_embedding", "rows of the table", 0.0, _token_embedding),
    Check("lm_head", "logits", 1e-6, _lm_head),
    Check(
        "attention_full",
        "cache and step, ragged rows",
        1e-6,
        lambda r: _attention(r, "attention_full", 9),
    ),
    Check(
        "attention_swa",
        "window 129, sinks, ragged rows",
        1e-6,
        lambda r: _attention(r, "attention_swa", WINDOW + 3, window=WINDOW),
    ),
    Check("kv_cache", "written, then read", 0.0, _kv_cache),
    *MOE_CHECKS,
    Check("mtp_input", "embedding, then hidden state", 1e-6, _mtp_input),
    Check("hidden_ring", "written, then read", 0.0, _hidden_ring),
    Check("fp8", "all 254 FP8 codes", 0.0, _decoded_codes),
    Check("fp8", "quantised", 1e-7, _quantize),
    Check("fp8", "matmul of FP8 blocks of 64 x 128", 1e-6, _scaled_matmul),
    *FORMAT_CHECKS,
    Check("sampling", "greedy and top-k", 0.0, _sampling),
)
