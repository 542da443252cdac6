"""Tests of fused projections: MiMo-V2.5's qkv_proj, rank after rank, with each rank's scales."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimo_v2_flash.quantization.fp8_projections import rank_rows, split_rank
from mimo_v2_flash.quantization.stored_layout import Heads
from tests.support.drawn import seeds
from tests.support.quantised import assert_is, attention, split_fused, stored

PRO = Heads(queries=16, keys=8, head_dim=192, v_head_dim=128)  # V2.5-Pro has 128 query heads
TRUE = [  # heads, ranks, rows and scale rows of MiMo-V2.5 and MiMo-V2.5-Pro
    (Heads(64, 4, 192, 128), 4, 13568, 108),
    (Heads(64, 8, 192, 128), 4, 14848, 116),
    (Heads(128, 8, 192, 128), 8, 27136, 216),
]


@st.composite
def heads_and_ranks(draw) -> tuple[Heads, int]:
    ranks = draw(st.sampled_from([2, 4, 8]))
    Q, C = 64 * draw(st.integers(1, 4)), 64 * draw(st.integers(1, 3))
    return Heads(ranks * draw(st.integers(1, 3)), ranks * draw(st.integers(1, 2)), Q, C), ranks


@given(heads_and_ranks(), st.sampled_from([1, 128, 130]), seeds)
@example((PRO, 8), 130, 0)
def test_fused_attention_is_split_as_it_was_made(drawn, width, seed):
    heads, ranks = drawn
    apart, whole = attention(heads, ranks=ranks, hidden=width, seed=seed)
    split = split_fused("qkv", stored(whole), heads, ranks)
    for weight, expected in zip(split, apart, strict=True):
        assert weight.block_height == 64
        assert_is(weight, expected)


@given(heads_and_ranks(), st.integers(1, 4), seeds)
def test_any_rows_of_a_rank_are_split_as_the_whole_is(drawn, step, seed):
    (heads, ranks), width = drawn, 3
    apart, whole = attention(heads, ranks=ranks, hidden=width, seed=seed)
    rows = tuple(len(part.truth_OI) // ranks for part in apart)
    code, scale = (np.split(array, ranks)[-1] for array in stored(whole))
    values = [np.full((count, width), np.nan) for count in rows]
    for first in range(0, len(scale), step):
        some = code[128 * first : 128 * (first + step)]
        for part, row, weight in split_rank(some, scale[first : first + step], rows, 128 * first):
            assert np.shares_memory(weight.code, code)
            destination = values[part][row : row + len(weight)]
            assert np.isnan(destination).all()
            destination[:] = weight.dequantize()
    for part, value in zip(apart, values, strict=True):
        np.testing.assert_array_equal(value, part.truth_OI[-len(value) :])


@pytest.mark.parametrize(("heads", "ranks", "rows", "scale_rows"), TRUE)
def test_true_models_have_the_rows_that_are_asked_for(heads, ranks, rows, scale_rows):
    shapes = (rows, 4096), (scale_rows, 32)
    assert sum(rank_rows("qkv", shapes, heads, ranks)) * ranks == rows
    for wrong in (
        ((rows - 64, 4096), shapes[1]),
        (shapes[0], (scale_rows - 1, 32)),
        (shapes[0], (-(-rows // 128) - 1, 32)),
        (shapes[0], (scale_rows, 31)),
        (shapes[0], (scale_rows,)),
    ):
        with pytest.raises(ValueError, match=rf"^qkv: .* expected {rows} rows") as refusal:
            rank_rows("qkv", wrong, heads, ranks)
        assert f"({scale_rows}, 32): {ranks} ranks of [q | k | v]" in str(refusal.value)


@pytest.mark.parametrize(
    ("heads", "ranks"),
    [
        (Heads(8, 4, 128, 128), 8),  # half a KV head on a rank
        (Heads(6, 4, 128, 128), 4),  # one query head and a half
        (Heads(8, 4, 160, 128), 4),  # no whole half blocks
    ],
)
def test_heads_that_ranks_cannot_share_are_refused(heads, ranks):
    _, whole = attention(heads, ranks=ranks, hidden=1, seed=0)
    with pytest.raises(ValueError, match=f"^qkv: .* {ranks} ranks"):
        split_fused("qkv", stored(whole), heads, ranks)


def test_another_number_of_ranks_is_refused():
    heads = Heads(8, 4, 192, 128)
    _, whole = attention(heads, ranks=4, hidden=1, seed=0)
    for ranks in (1, 2):
        with pytest.raises(ValueError, match=rf"\(2816, 1\) with scales \(24, 1\).*{ranks} ranks"):
            split_fused("qkv", stored(whole), heads, ranks)
