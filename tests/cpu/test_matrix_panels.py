"""Tests of the matrix unit, where there is one: its products are those of rounded activations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu import matmul
from mimo_v2_flash.cpu.bfloat16_panels import rounded_pairs
from mimo_v2_flash.cpu.bfloat16_unit import is_permitted
from mimo_v2_flash.cpu.loading import compiled_module
from tests.support.drawn import seeds
from tests.support.part_products import assert_part_is_product, parts
from tests.support.stored_weights import INPUTS, assert_is_product, random_float8, random_rows

pytestmark = pytest.mark.skipif(not is_permitted(), reason="this processor has no matrix unit")


def fill(x_NI, w, y_NO, start, end) -> None:
    module, weight, panel_W = compiled_module("matrix_panels"), w.compiled, matmul._scratch()
    panel_W[:] = np.nan  # what others have left there
    pair_NW = rounded_pairs(x_NI, module.ROWS, module.ROWS)
    operands = pair_NW, weight.bfloat16_packer, weight.address, y_NO
    module.matrix_panels(*operands, start, end, panel_W, x_NI.shape[1])


@given(parts(), st.sampled_from(INPUTS), st.integers(1, 50), seeds)
def test_the_unit_fills_its_part(part, inputs, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w, x_NI = random_float8(generator, outputs, inputs), random_rows(generator, N, inputs)
    x_NI = np.round(x_NI * 16) / 16  # bfloat16
    assert_part_is_product(lambda y_NO: fill(x_NI, w, y_NO, *span), x_NI, w, *span)


@pytest.mark.parametrize("N", [1, 47, 48, 49])
@pytest.mark.parametrize("inputs", [2047, 2048, 2178])
@given(seeds)
@settings(max_examples=2)
def test_what_is_packed_in_parts_adds_up(N, inputs, seed):
    generator = np.random.default_rng(seed)
    w, x_NI = random_float8(generator, 195, inputs, 77), random_rows(generator, N, inputs)
    x_NI, y_NO = np.round(x_NI * 16) / 16, np.empty((N, 195), np.float32)
    fill(x_NI, w, y_NO, 0, 195)
    assert_is_product(y_NO, x_NI, w)
