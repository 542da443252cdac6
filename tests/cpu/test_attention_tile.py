"""Tests of the tiles of decode attention: copies, scores, sums of values."""

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from mimo_v2_flash.cpu.attention_tile import (
    KEYS,
    KINDS,
    QUERIES,
    VALUES,
    add_values,
    copy_row,
    fill_scores,
)
from mimo_v2_flash.cpu.kv_codes import decode
from mimo_v2_flash.cpu.tile import LANES
from tests.support.drawn import CODED, FLOATS, seeds


@njit
def call_copy(bytes_ZKI, z, head, kind, out_SQ, s):
    copy_row(bytes_ZKI, z, head, kind, out_SQ, s)


@njit
def call_scores(q_GQ, g, k_SQ, s, score_GS):
    fill_scores(q_GQ, g, k_SQ, s, score_GS)


@njit
def call_values(weight_GS, g, v_SC, keys, y_GC, c):
    add_values(weight_GS, g, v_SC, keys, y_GC, c)


@given(st.sampled_from(FLOATS), st.integers(1, 3 * LANES + 1), seeds)
def test_a_row_is_copied_and_nothing_beside_it(dtype, width, seed):
    generator = np.random.default_rng(seed)
    x_ZKQ = generator.standard_normal((3, 2, width)).astype(dtype)
    x_ZKQ[1, 1, 0] = generator.choice([np.nan, -np.inf, -0.0, 1e-40]).astype(dtype)
    out_SQ = np.full((4, width + 2), 7, np.float32)
    call_copy(x_ZKQ.view(np.uint8), 1, 1, KINDS.index(dtype), out_SQ, 2)
    expected_SQ = np.full_like(out_SQ, 7)
    expected_SQ[2, :width] = x_ZKQ[1, 1]
    assert out_SQ.tobytes() == expected_SQ.tobytes()


@given(st.sampled_from(CODED), st.integers(1, 3 * LANES + 1), st.integers(0, 255), seeds)
def test_every_code_is_its_number_times_the_scale_of_its_row(dtype, width, first, seed):
    """Heads have scales of their own; codes are all but NaN."""
    code_I = (np.arange(3 * 2 * (width + 2)) + first).astype(np.uint8)
    x_ZKI = np.where(code_I & 0x7F == 0x7F, 0, code_I).astype(np.uint8).reshape(3, 2, width + 2)
    scale_ZK1 = np.exp(20 * np.random.default_rng(seed).standard_normal((3, 2, 1)))
    x_ZKI[..., width:] = scale_ZK1.astype(ml_dtypes.bfloat16).view(np.uint8)
    out_SQ = np.full((4, width + 2), 7, np.float32)
    call_copy(x_ZKI, 1, 0, KINDS.index(dtype), out_SQ, 2)
    expected_SQ = np.full_like(out_SQ, 7)
    expected_SQ[2, :width] = decode(x_ZKI.view(dtype))[1, 0]
    assert out_SQ.tobytes() == expected_SQ.tobytes()


@given(st.integers(0, 2), st.integers(0, 3), st.integers(1, 4), seeds)
def test_scores_are_products_of_two_queries_and_four_keys(g, s, vectors, seed):
    normal = np.random.default_rng(seed).standard_normal
    q_GQ, k_SQ = (normal((5, vectors * LANES), np.float32) for _ in range(2))
    k_SQ = np.concatenate([k_SQ, k_SQ[:2]])
    score_GS = np.full((5, 7), 9, np.float32)
    call_scores(q_GQ, g, k_SQ, s, score_GS)
    expected_GS = np.full((5, 7), 9.0)
    part = np.s_[g : g + QUERIES, s : s + KEYS]
    expected_GS[part] = (q_GQ.astype(np.float64) @ k_SQ.T)[part]
    np.testing.assert_allclose(score_GS, expected_GS, rtol=0, atol=1e-4)
    untouched = expected_GS == 9
    np.testing.assert_array_equal(score_GS[untouched], 9)


@given(st.integers(0, 2), st.integers(0, 9), st.integers(0, 1), seeds)
def test_weighted_values_are_added(g, keys, chunk, seed):
    normal = np.random.default_rng(seed).standard_normal
    weight_GS, v_SC, before_GC = (
        normal(shape, np.float32) for shape in ((4, 9), (9, 2 * VALUES), (4, 2 * VALUES))
    )
    v_SC[keys:] = np.nan  # not read
    y_GC, expected_GC = before_GC.copy(), before_GC.astype(np.float64)
    call_values(weight_GS, g, v_SC, keys, y_GC, chunk * VALUES)
    part = np.s_[g : g + QUERIES, chunk * VALUES : (chunk + 1) * VALUES]
    expected_GC[part] += (weight_GS[:, :keys].astype(np.float64) @ v_SC[:keys])[part]
    np.testing.assert_allclose(y_GC, expected_GC, rtol=0, atol=1e-5)


def test_a_subnormal_bfloat16_is_widened_by_its_bits():
    bits_ZKI = np.full((1, 1, LANES + 1), 1, np.uint16)
    out_SQ = np.zeros((1, LANES + 1), np.float32)
    call_copy(bits_ZKI.view(np.uint8), 0, 0, KINDS.index(ml_dtypes.bfloat16), out_SQ, 0)
    assert (out_SQ.view(np.uint32) == 1 << 16).all()
    assert out_SQ[0, 0] == np.float32(bits_ZKI.view(ml_dtypes.bfloat16)[0, 0, 0])
