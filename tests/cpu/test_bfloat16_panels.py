"""Tests of panels of pairs of bfloat16, on every machine: a unit's sums are those of float32."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from mimo_v2_flash.cpu import bfloat16_panels, floats, matmul
from mimo_v2_flash.cpu.bfloat16_panels import EMULATED_PANEL, TASK_ROWS, rounded_pairs
from mimo_v2_flash.cpu.panel_product import panel_loop
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.drawn import seeds
from tests.support.packed_parts import assert_packed, packed_parts
from tests.support.stored_weights import (
    HEIGHTS,
    NAN_CODES,
    assert_is_product,
    random_float8,
    random_rows,
    random_weight,
    stored_weights,
)

PAIRED = ["float8", "bfloat16"]
MANY = 9  # rows, of which the unit has the products
_emulated_loop = panel_loop(EMULATED_PANEL)


@njit
def emulated_panels(pair_NW, pack, address, y_NO, start, end, panel_W, inputs):
    _emulated_loop(pair_NW, pack, address, inputs, y_NO, start, end, panel_W)


def rounded(x_NI: np.ndarray) -> np.ndarray:
    return x_NI.astype(ml_dtypes.bfloat16).astype(np.float32)


def compiled(w):
    return w.compiled if isinstance(w, BlockScaled) else floats.compiled_array(w)


@pytest.fixture(autouse=True)
def unit(monkeypatch):
    monkeypatch.setattr(matmul, "uses_unit", lambda: True)


@given(stored_weights(), st.integers(MANY, 60), seeds)
def test_a_product_is_that_of_rounded_activations(w, N, seed):
    x_NI = random_rows(np.random.default_rng(seed), N, w.shape[1])
    y_NO = matmul.product(x_NI, compiled(w), w.shape[0], "bfloat16")
    assert_is_product(y_NO, rounded(x_NI), w)


@pytest.mark.parametrize("kind", PAIRED)
@pytest.mark.parametrize("inputs", [2047, 2048, 2050])
def test_what_the_unit_adds_float32_adds(kind, inputs):
    """The parts of a unit's instruction, where there is one, and what is packed in two parts."""
    generator = np.random.default_rng(inputs)
    w, x_NI = random_weight(generator, kind, 150, inputs), random_rows(generator, MANY, inputs)
    weight, y_NO = compiled(w), np.empty((MANY, 150), np.float32)
    operands = rounded_pairs(x_NI), weight.bfloat16_packer, weight.address
    for panels in (emulated_panels, bfloat16_panels.bfloat16_panels):
        panels(*operands, y_NO, 0, 150, matmul._scratch(), inputs)
        assert_is_product(y_NO, rounded(x_NI), w)
    assert_is_product(matmul.product(x_NI, weight, 150, "bfloat16"), rounded(x_NI), w)


@given(packed_parts(), st.sampled_from(HEIGHTS), seeds)
def test_packed_pairs_are_exact(part, height, seed):
    generator = np.random.default_rng(seed)
    w = random_float8(generator, part.outputs, part.inputs, height)
    address = w.code.ctypes.data, w.scale.ctypes.data, height
    assert_packed(part, bfloat16_panels.float8_packer, address, w.dequantize(), 2)
    w_OI = random_rows(generator, part.outputs, part.inputs).astype(ml_dtypes.bfloat16)
    address = w_OI.ctypes.data, 0, 0
    assert_packed(part, bfloat16_panels.bfloat16_packer, address, w_OI, 2)


def test_subnormal_codes_are_no_subnormal_numbers():
    generator = np.random.default_rng(0)
    code_OI = generator.choice(np.array([0, 1, 7, 0x80, 0x83], np.uint8), (70, 130))
    w, x_NI = BlockScaled(code_OI, np.ones((1, 2), np.float32)), random_rows(generator, MANY, 130)
    y_NO = matmul.product(x_NI, w.compiled, 70, "bfloat16")
    assert_is_product(y_NO, rounded(x_NI), w)


@given(seeds)
@settings(max_examples=5)
def test_a_nan_code_spoils_its_output_and_no_other(seed):
    generator = np.random.default_rng(seed)
    whole, x_NI = random_float8(generator, 90, 140), random_rows(generator, MANY, 140)
    code_OI, spoilt = whole.code.copy(), generator.choice(90, 7, replace=False)
    code_OI[spoilt, generator.integers(0, 140, 7)] = generator.choice(NAN_CODES, 7)
    damaged = BlockScaled(code_OI, whole.scale)
    y_NO, intact_NO = (matmul.product(x_NI, w.compiled, 90, "bfloat16") for w in (damaged, whole))
    assert np.isnan(y_NO[:, spoilt]).all()
    intact = np.setdiff1d(np.arange(90), spoilt)
    np.testing.assert_array_equal(y_NO[:, intact], intact_NO[:, intact])


@pytest.mark.parametrize("kind", PAIRED)
@given(st.integers(MANY, 60), st.integers(1, 60), seeds)
@settings(max_examples=10)
def test_a_row_has_the_same_bits_beside_any_others(kind, N, others, seed):
    generator = np.random.default_rng(seed)
    w, x_NI = random_weight(generator, kind, 70, 300), random_rows(generator, N + others, 300)
    products = [
        matmul.product(rows_NI, compiled(w), 70, "bfloat16") for rows_NI in (x_NI, x_NI[:N])
    ]
    np.testing.assert_array_equal(products[0][:N], products[1])


@pytest.mark.parametrize("kind", PAIRED)
def test_without_the_unit_rounded_rows_meet_float32_panels(monkeypatch, kind):
    generator = np.random.default_rng(0)
    w, x_NI = random_weight(generator, kind, 70, 300), random_rows(generator, 2 * MANY, 300)
    monkeypatch.setattr(matmul, "uses_unit", lambda: False)
    monkeypatch.setattr(bfloat16_panels, "prepare", None)  # whoever calls it, fails
    np.testing.assert_array_equal(
        matmul.product(x_NI, compiled(w), 70, "bfloat16"),
        matmul.product(rounded(x_NI), compiled(w), 70),
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 6), (2, 7), (5 * TASK_ROWS + 1, 1025)])
def test_rounded_pairs_are_bfloat16_and_a_zero(shape):
    x_NI = random_rows(np.random.default_rng(0), *shape)
    half_NI = rounded_pairs(x_NI).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(half_NI[:, : shape[1]].astype(np.float32), rounded(x_NI))
    assert half_NI.shape == (shape[0], shape[1] + shape[1] % 2)
    assert not half_NI[:, shape[1] :].any()


@pytest.mark.parametrize("shape", [(16, 32), (17, 33), (5 * TASK_ROWS + 1, 1025)])
def test_rounded_pairs_fill_up_multiples_of_rows_and_words(shape):
    x_NI = random_rows(np.random.default_rng(0), *shape)
    half_NI, pair_NI = rounded_pairs(x_NI, 16, 16).view(np.uint16), rounded_pairs(x_NI)
    assert half_NI.shape == (-(-shape[0] // 16) * 16, -(-shape[1] // 32) * 32)
    np.testing.assert_array_equal(
        half_NI[: shape[0], : shape[1]], pair_NI.view(np.uint16)[:, : shape[1]]
    )
    assert not half_NI[: shape[0], shape[1] :].any()


def test_numbers_at_every_edge_are_rounded_as_bfloat16_is():
    upper_N = np.arange(1 << 16, dtype=np.uint32) << 16
    lower_E = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x_NI = (upper_N[:, None] | lower_E).view(np.float32)
    half_NI = rounded_pairs(x_NI).view(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore", over="ignore"):
        expected_NI = x_NI.astype(ml_dtypes.bfloat16)
    is_nan_NI = np.isnan(expected_NI)
    np.testing.assert_array_equal(np.isnan(half_NI), is_nan_NI)
    bits_NI, expected_NI = half_NI.view(np.uint16), expected_NI.view(np.uint16)
    np.testing.assert_array_equal(bits_NI[~is_nan_NI], expected_NI[~is_nan_NI])
