"""Tests of the product by panels: every row, column and input, whatever is packed at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu import floats, matmul, panel_product
from mimo_v2_flash.cpu.panel import PANEL, ROWS
from mimo_v2_flash.cpu.panel_product import DEPTH, OUTPUTS, ROW_BLOCK
from tests.support.drawn import seeds
from tests.support.part_products import assert_part_is_product, parts
from tests.support.stored_weights import INPUTS, assert_is_product, random_float8, random_rows


def fill(x_NI, weight, y_NO, start, end) -> None:
    """Fill columns of a product, with scratch that holds what others have left there."""
    panel_W = matmul._scratch()
    panel_W[:] = np.nan
    panel_product.float32_panels(x_NI, weight.packer, weight.address, y_NO, start, end, panel_W)


@given(parts(), st.sampled_from(INPUTS), st.integers(1, 2 * ROWS), seeds)
def test_panels_fill_their_part(part, inputs, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w_OI, x_NI = random_rows(generator, outputs, inputs), random_rows(generator, N, inputs)
    weight = floats.compiled_array(w_OI)
    assert_part_is_product(lambda y_NO: fill(x_NI, weight, y_NO, *span), x_NI, w_OI, *span)


@pytest.mark.parametrize("N", [ROW_BLOCK - 1, ROW_BLOCK, ROW_BLOCK + 1])
@pytest.mark.parametrize("inputs", [DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH + 130])
@given(st.sampled_from([OUTPUTS, OUTPUTS + 1, OUTPUTS + PANEL + 3]), seeds)
@settings(max_examples=3)
def test_what_is_packed_in_parts_adds_up(N, inputs, outputs, seed):
    generator = np.random.default_rng(seed)
    w, x_NI = random_float8(generator, outputs, inputs, 77), random_rows(generator, N, inputs)
    y_NO = np.empty((N, outputs), np.float32)
    fill(x_NI, w.compiled, y_NO, 0, outputs)
    assert_is_product(y_NO, x_NI, w)
