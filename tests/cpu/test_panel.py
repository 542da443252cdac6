"""Tests of packing and of the inner tile: each word at its place, each sum in its row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from mimo_v2_flash.cpu import floats, fp8, panel
from mimo_v2_flash.cpu.panel import BLOCK, FLOAT32_PANEL, PANEL, ROWS, VECTOR
from mimo_v2_flash.cpu.tile import LANES, WORD
from mimo_v2_flash.quantization.fp8 import E4M3_VALUES
from tests.support.drawn import seeds
from tests.support.stored_weights import NAN_CODES, NORMAL_CODES

add_tile = panel.panel_tile(FLOAT32_PANEL)
pack_line = panel.pack_line(fp8.FLOAT8, FLOAT32_PANEL, exact=False)
pack_exactly = panel.pack_line(fp8.FLOAT8, FLOAT32_PANEL, exact=True)
pack_floats = panel.pack_line(floats.FLOAT32, FLOAT32_PANEL, exact=False)


@njit
def tile(x_NI, n, k, steps, panel_W, p, sum_RO, r):
    add_tile(x_NI, n, k, steps, panel_W, p, sum_RO, r)


@njit
def pack(source, pitch, last, offset, target):
    table = panel.row_table(source, pitch, last)
    is_whole = pack_line(table, offset, 0, target)
    return is_whole, pack_exactly(table, offset, 0, target + VECTOR)


@njit
def pack_tail(source, pitch, last, offset, target):
    for start in (offset - WORD, offset):  # a longer tail before, which leaves something behind
        table = panel.copy_tail(panel.row_table(source, pitch, last), start, pitch - start)
        pack_floats(table, 0, 0, target)


def aligned(*shape: int) -> np.ndarray:
    """Return zeros that begin where a vector may."""
    size = int(np.prod(shape))
    room = np.zeros(size + VECTOR // WORD, np.float32)
    return room[-room.ctypes.data % VECTOR // WORD :][:size].reshape(shape)


@given(st.integers(1, 9), st.integers(0, 8), st.integers(0, 3), st.integers(1, BLOCK), seeds)
def test_a_tile_adds_scaled_sums_to_its_rows(N, n, k, steps, seed):
    generator = np.random.default_rng(seed)
    x_NI = generator.standard_normal((N, k + steps + 2), np.float32)
    panel_IO, before_RO = aligned(steps + 4, PANEL), generator.random((ROWS + 3, PANEL), np.float32)
    panel_IO[:] = generator.standard_normal(panel_IO.shape, np.float32)
    sum_RO = before_RO.copy()
    tile(x_NI, n, k, steps, panel_IO.reshape(-1), PANEL, sum_RO, 2)
    row_R = np.minimum(np.arange(n, n + ROWS), N - 1)
    wide_RK, wide_KO = x_NI[row_R, k : k + steps], panel_IO[2 : 2 + steps].astype(np.float64)
    scale_O = panel_IO[1].astype(np.float64)
    expected_RO = before_RO[2 : 2 + ROWS] + (wide_RK @ wide_KO) * scale_O
    allowed_RO = 1e-6 * (1 + np.abs(wide_RK) @ np.abs(wide_KO) * np.abs(scale_O))
    assert np.all(np.abs(sum_RO[2 : 2 + ROWS] - expected_RO) <= allowed_RO)
    outside = [0, 1, *range(2 + ROWS, len(sum_RO))]
    np.testing.assert_array_equal(sum_RO[outside], before_RO[outside])


def packed_codes(code_OI: np.ndarray, last: int, offset: int) -> tuple[list[bool], np.ndarray]:
    """Return what both packers say, and the values that each has packed, without the unit."""
    panel_IO = aligned(VECTOR, PANEL)
    decoded = pack(code_OI.ctypes.data, code_OI.shape[1], last, offset, panel_IO.ctypes.data)
    return list(decoded), panel_IO[:, : 2 * LANES].reshape(VECTOR, 2, LANES) * fp8.UNIT


@given(st.integers(0, LANES - 1), st.integers(0, 40), seeds)
def test_normal_codes_are_packed_by_both_decoders(last, offset, seed):
    code_OI = np.random.default_rng(seed).choice(NORMAL_CODES, (LANES, VECTOR + 40))
    decoded, value_IDO = packed_codes(code_OI, last, offset)
    row_O = np.minimum(np.arange(LANES), last)
    expected_IO = fp8_values(code_OI)[row_O, offset : offset + VECTOR].T
    assert decoded == [True, True]
    for decoder in range(2):
        np.testing.assert_array_equal(value_IDO[:, decoder], expected_IO)


@pytest.mark.parametrize("code", [0x00, 0x80, 0x01, 0x87, *NAN_CODES])
@given(st.integers(0, LANES - 1), st.integers(0, VECTOR - 1), seeds)
def test_other_codes_are_seen_and_packed_by_the_exact_decoder(code, row, column, seed):
    code_OI = np.random.default_rng(seed).choice(NORMAL_CODES, (LANES, VECTOR))
    code_OI[row, column] = code
    decoded, value_IDO = packed_codes(code_OI, LANES - 1, 0)
    assert decoded == [False, True]
    expected_IO = fp8_values(code_OI).T
    is_nan_O = np.isnan(value_IDO[:, 1]).any(axis=0)
    np.testing.assert_array_equal(is_nan_O, np.isnan(expected_IO).any(axis=0))
    np.testing.assert_array_equal(value_IDO[:, 1, ~is_nan_O], expected_IO[:, ~is_nan_O])


def fp8_values(code_OI: np.ndarray) -> np.ndarray:
    return E4M3_VALUES[code_OI]


@given(st.integers(0, LANES - 1), st.integers(1, LANES - 2), seeds)
def test_what_is_left_of_rows_is_packed_with_zeros(last, left, seed):
    w_OI = np.random.default_rng(seed).standard_normal((LANES, LANES + left), np.float32)
    panel_IO = aligned(LANES, PANEL)
    offset = LANES * WORD
    pack_tail(w_OI.ctypes.data, w_OI.shape[1] * WORD, last, offset, panel_IO.ctypes.data)
    row_O = np.minimum(np.arange(LANES), last)
    np.testing.assert_array_equal(panel_IO[:left, :LANES], w_OI[row_O, LANES:].T)
    np.testing.assert_array_equal(panel_IO[left:, :LANES], 0)
    np.testing.assert_array_equal(panel_IO[:, LANES:], 0)


def test_the_next_rows_are_asked_for():
    packed_codes(np.zeros((LANES, VECTOR), np.uint8), LANES - 1, 0)
    for code in pack.inspect_llvm().values():
        assert code.count("call void @llvm.prefetch") == 2 * LANES  # of both decoders
