"""Tests of FP8 weights on plain grids, and where scales cross from K into V."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.quantization.fp8_projections import keys_and_values
from mimo_v2_flash.quantization.stored_layout import Heads
from tests.support.drawn import seeds
from tests.support.quantised import assert_is, attention, plain_grid, random_codes, stored

MIMO = Heads(queries=4, keys=4, head_dim=192, v_head_dim=128)
columns = st.sampled_from([1, 128, 130])


@st.composite
def one_head_a_rank(draw) -> Heads:
    """Draw several KV heads of any half blocks, and queries that fill whole blocks."""
    K, Q, C = draw(st.integers(2, 8)), 64 * draw(st.integers(1, 5)), 64 * draw(st.integers(1, 4))
    return Heads(K * draw(st.sampled_from([2, 4])), K, Q, C)


@settings(max_examples=60)
@given(one_head_a_rank(), columns, seeds)
def test_scales_that_cross_from_k_into_v_are_read_as_they_were_made(heads, width, seed):
    (_, k, v), _ = attention(heads, ranks=heads.keys, hidden=width, seed=seed)
    w_k, w_v = keys_and_values("layer", stored(k), stored(v), heads)
    assert_is(w_k, k)
    assert_is(w_v, v)


@given(one_head_a_rank(), st.integers(1, 2), seeds)
def test_an_even_number_of_heads_on_a_rank_is_on_the_plain_grid(heads, half, seed):
    heads = heads._replace(keys=4 * half, queries=8 * half)
    (_, k, v), _ = attention(heads, ranks=2, hidden=130, seed=seed)
    w_k, w_v = keys_and_values("layer", stored(k), stored(v), heads)
    assert (w_k.block_height, w_v.block_height) == (128, 128)
    assert_is(w_k, k)
    assert_is(w_v, v)


def test_the_rows_of_mimos_scales_are_those_of_the_table():
    k, v = random_codes(768, 1, grid=(8, 1)), random_codes(512, 1, grid=(4, 1))
    (_, k_scale), (_, v_scale) = k, v
    w_k, w_v = keys_and_values("layer", k, v, MIMO)
    assert (w_k.block_height, w_v.block_height) == (64, 64)
    for g in range(4):
        expected = k_scale[[2 * g, 2 * g, 2 * g + 1]]
        np.testing.assert_array_equal(w_k.scale[3 * g : 3 * g + 3], expected)
        expected = np.stack([k_scale[2 * g + 1], v_scale[g]])
        np.testing.assert_array_equal(w_v.scale[2 * g : 2 * g + 2], expected)


def test_a_plain_grid_is_wrong_in_half_of_v_and_impossible_for_k():
    (_, k, v), _ = attention(MIMO._replace(queries=8), ranks=4, hidden=130, seed=0)
    with pytest.raises(ValueError, match=r"\(8, 2\), expected \(6, 2\)"):
        plain_grid("k", *stored(k))
    naive, truth = plain_grid("v", *stored(v)).dequantize(), v.truth_OI
    wrong = (naive != truth).reshape(4, 2, 64, -1).any(axis=(2, 3))
    assert wrong.tolist() == [[True, False]] * 4


@pytest.mark.parametrize("grids", [((8, 1), (4, 1)), ((6, 1), (4, 1)), ((12, 1), (8, 1))])
def test_codes_are_views_of_what_was_read(grids):
    k, v = random_codes(768, 3, grid=grids[0]), random_codes(512, 3, grid=grids[1])
    w_k, w_v = keys_and_values("layer", k, v, MIMO)
    assert w_k.code is k[0]
    assert w_v.code is v[0]


def test_every_other_pair_of_scale_rows_is_refused_by_layer():
    fitting = {(8, 4), (6, 4), (12, 8)}
    for rows in np.ndindex(15, 12):
        k, v = random_codes(768, 1, grid=(rows[0], 1)), random_codes(512, 1, grid=(rows[1], 1))
        if rows in fitting:
            keys_and_values("layers.5", k, v, MIMO)
            continue
        with pytest.raises(ValueError, match=r"^layers\.5: k and v have scales") as refusal:
            keys_and_values("layers.5", k, v, MIMO)
        message = str(refusal.value)
        assert f"({rows[0]}, 1) and ({rows[1]}, 1), expected ((6, 1), (4, 1))" in message
        assert "or ((8, 1), (4, 1))" in message


@pytest.mark.parametrize(("k_grid", "v_grid"), [((8, 2), (4, 1)), ((8, 1), (4, 2)), ((8,), (4,))])
def test_other_scale_columns_of_k_and_v_are_refused(k_grid, v_grid):
    k, v = random_codes(768, 1, grid=k_grid), random_codes(512, 1, grid=v_grid)
    with pytest.raises(ValueError, match=r"layers\.5: k and v"):
        keys_and_values("layers.5", k, v, MIMO)


def test_an_odd_number_of_heads_on_a_rank_is_refused():
    heads = Heads(queries=12, keys=6, head_dim=192, v_head_dim=128)
    (_, k, v), _ = attention(heads, ranks=2, hidden=1, seed=0)
    with pytest.raises(ValueError, match=r"scales \(10, 1\) and \(6, 1\), expected"):
        keys_and_values("layer", stored(k), stored(v), heads)


def test_a_run_that_half_blocks_cannot_show_is_refused():
    heads = Heads(queries=8, keys=4, head_dim=160, v_head_dim=128)
    (_, k, v), _ = attention(heads._replace(queries=16), ranks=4, hidden=1, seed=0)
    with pytest.raises(ValueError, match=r"scales \(8, 1\) and \(4, 1\), expected"):
        keys_and_values("layer", stored(k), stored(v), heads)
