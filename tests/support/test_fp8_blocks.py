"""fp8_blocks: rounding error of 128 x 128 blocks, split and fused attention, unfit models."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.fp8_blocks import check_geometry, quantise_attention, quantise_blocks
from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
from tests.support.tiny import tiny


def matrix(outputs: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Return normal numbers under a scale that differs from block to block and row to row."""
    generator = np.random.default_rng(seed)
    scale_O1 = np.exp(generator.uniform(-4, 4, (outputs, 1)))
    return (generator.standard_normal((outputs, inputs)) * scale_O1).astype(np.float32)


@pytest.mark.parametrize("shape", [(128, 128), (320, 136), (1, 1), (129, 257)])
def test_every_number_is_within_half_a_step(shape):
    w_OI = matrix(*shape)
    code_OI, scale_YX, truth_OI = quantise_blocks(w_OI)
    assert scale_YX.shape == (-(-shape[0] // 128), -(-shape[1] // 128))
    rows, columns = (np.arange(length) // 128 for length in shape)
    scale_OI = scale_YX[rows[:, None], columns[None]]
    np.testing.assert_array_equal(truth_OI, code_OI.astype(np.float32) * scale_OI)
    # E4M3 has 3 bits after the point, and 2^-9 is its smallest number.
    step_OI = np.maximum(2.0 ** np.floor(np.log2(np.abs(w_OI / scale_OI))) / 8, 2.0**-9) * scale_OI
    assert (np.abs(truth_OI - w_OI) <= step_OI / 2 * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(128, 128), (320, 136)])
def test_the_largest_number_of_every_block_is_the_largest_code(shape):
    code_OI, scale_YX, _ = quantise_blocks(matrix(*shape))
    for y, x in np.ndindex(*scale_YX.shape):
        block = code_OI[y * 128 : y * 128 + 128, x * 128 : x * 128 + 128]
        assert np.abs(block.astype(np.float32)).max() == 448


def test_a_block_of_zeros_stays_zero():
    _, scale_YX, truth_OI = quantise_blocks(np.zeros((130, 3), np.float32))
    assert not truth_OI.any()
    assert np.isfinite(scale_YX).all()


def test_split_and_fused_are_the_same_numbers():
    ranks, rows = 2, (384, 192, 128)
    whole = [matrix(ranks * count, 136, seed) for seed, count in enumerate(rows)]
    split, fused = quantise_attention(*whole, ranks)
    for field in ("code_OI", "truth_OI"):
        shards = zip(*(np.split(getattr(p, field), ranks) for p in split), strict=True)
        expected = np.concatenate([array for rank in shards for array in rank])
        np.testing.assert_array_equal(getattr(fused, field), expected)
    (q, k, v), scale_YX = (part.scale_YX for part in split), fused.scale_YX
    assert (len(q), len(k), len(v)) == (3 * ranks, 2 * ranks, 1 * ranks)
    np.testing.assert_array_equal(
        scale_YX, np.concatenate([q[:3], k[:2], v[:1], q[3:], k[2:], v[1:]])
    )


@pytest.mark.parametrize(
    ("changes", "ranks", "fault"),
    [
        ({"head_dim": 128}, None, r"head widths \(128, 128\), expected \(192, 128\)"),
        ({"v_head_dim": 64}, None, r"head widths \(192, 64\)"),
        ({"num_kv_heads": 1}, None, "1 KV heads, expected several"),
        ({"num_kv_heads": 3, "queries_per_kv_head": 4}, 1, "3 KV heads, expected several"),
        ({}, 3, "expected multiples of 3"),
        ({}, 8, "expected multiples of 8"),
    ],
)
def test_a_geometry_without_the_crossing_is_refused(tmp_path, changes, ranks, fault):
    model = tiny(replace(RECIPE, **changes)).oracle
    with pytest.raises(ValueError, match=fault):
        write_hub_checkpoint(model, tmp_path / "hub", ranks=ranks)
    assert not (tmp_path / "hub").exists()


def test_query_rows_that_are_no_whole_blocks_are_refused():
    config = replace(tiny(RECIPE).config, num_attention_heads=4, swa_num_attention_heads=8)
    with pytest.raises(ValueError, match="layer 0 on 4 ranks: 192 query rows"):
        check_geometry(config, 4)
