"""Tests of the grid of FP8 scales: which numbers of scale rows and columns fit a weight."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import float8_e4m3fn

from mimo_v2_flash.quantization.fp8_grid import block_height
from tests.support.drawn import seeds
from tests.support.quantised import plain_grid, random_codes


def grid_of(code: tuple[int, int], height: int) -> tuple[int, int]:
    return -(-code[0] // height), -(-code[1] // 128)


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.sampled_from([128, 64]), seeds)
def test_a_plain_grid_gives_each_row_the_scale_of_its_block(shape, height, seed):
    code, scale = random_codes(*shape, grid=grid_of(shape, height), seed=seed)
    weight = plain_grid("w", code, scale)
    assert weight.code is code
    assert weight.scale is scale
    of_row, of_column = np.arange(shape[0]) // height, np.arange(shape[1]) // 128
    value = code.view(float8_e4m3fn).astype(np.float32) * scale[of_row][:, of_column]
    np.testing.assert_array_equal(weight.dequantize(), value)


@pytest.mark.parametrize("rows", [n for n in range(15) if n not in {6, 12}])
def test_any_other_number_of_scale_rows_is_refused(rows):
    with pytest.raises(ValueError, match=r"q_proj\.weight: \(768, 130\)") as refusal:
        plain_grid("q_proj.weight", *random_codes(768, 130, grid=(rows, 2)))
    assert f"({rows}, 2), expected (6, 2) or (12, 2)" in str(refusal.value)


@pytest.mark.parametrize("grid", [(6, 1), (6, 3), (6,), (6, 2, 1), (12, 130), (2, 6)])
def test_any_other_number_of_scale_columns_is_refused(grid):
    with pytest.raises(ValueError, match=r"w: .* expected \(6, 2\) or \(12, 2\)"):
        plain_grid("w", *random_codes(768, 130, grid=grid))


def test_the_height_of_a_plain_grid_must_fit_all():
    assert block_height(((768, 4096), (6, 32)), ((512, 4096), (4, 32))) == 128
    assert block_height(((768, 4096), (12, 32)), ((512, 4096), (8, 32))) == 64
    assert block_height(((768, 4096), (12, 32)), ((512, 4096), (4, 32))) is None
    assert block_height(((768, 4096), (8, 32))) is None
