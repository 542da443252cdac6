"""Tests of the tile: sums, NaN codes, prefetches, and the order of x."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from mimo_v2_flash.cpu import floats, fp8
from mimo_v2_flash.cpu.tile import COLUMNS, LANES, LINE, WORD, interleave_words, tile
from mimo_v2_flash.quantization.fp8 import E4M3_VALUES
from tests.support.drawn import seeds
from tests.support.stored_weights import NAN_CODES, random_codes

STORED_DTYPES = {"FLOAT8": np.int8, "BFLOAT16": np.uint16, "FLOAT32": np.float32}
FORMATS = {"FLOAT8": fp8.FLOAT8, "BFLOAT16": floats.BFLOAT16, "FLOAT32": floats.FLOAT32}


def compile_tile(kind: str, rows: int):
    """Return the tile as a Python function."""
    add = tile(FORMATS[kind], rows)

    @njit
    def call(sum_N4, n, x_NI, w_OI, o, last, end):
        return add(sum_N4, n, x_NI, w_OI, o, last, end)

    return call


TILES = {(kind, rows): compile_tile(kind, rows) for kind in STORED_DTYPES for rows in (1, 2, 3, 4)}


def random_stored(generator: np.random.Generator, kind: str, shape: tuple[int, int]):
    """Return a random weight as it is stored, and in float64."""
    if kind == "FLOAT8":
        code_OI = random_codes(generator, *shape)
        return code_OI.view(np.int8), E4M3_VALUES[code_OI].astype(np.float64)
    w_OI = generator.standard_normal(shape, np.float32)
    if kind == "FLOAT32":
        return w_OI, w_OI.astype(np.float64)
    narrow_OI = w_OI.astype(ml_dtypes.bfloat16)
    return narrow_OI.view(np.uint16), narrow_OI.astype(np.float64)


@pytest.mark.parametrize("kind", STORED_DTYPES)
@given(st.integers(1, 4), st.integers(0, 2), st.integers(0, 5), st.integers(1, 9), seeds)
def test_a_tile_sums_its_rows_times_its_columns(kind, rows, n, o, lines, seed):
    generator = np.random.default_rng(seed)
    end = lines * LINE // STORED_DTYPES[kind](0).itemsize
    w_OI, wide_OI = random_stored(generator, kind, (9, end + 3))
    x_NI = generator.standard_normal((n + rows + 1, end + 3), np.float32)
    before_N4 = generator.standard_normal((len(x_NI), COLUMNS), np.float32)
    sum_N4, last = before_N4.copy(), 6
    ordered_NI = interleave_words(x_NI, w_OI.itemsize)
    assert not TILES[kind, rows](sum_N4, n, ordered_NI, w_OI, o, last, end)
    written = slice(n, n + rows)
    column_4 = np.minimum(np.arange(o, o + COLUMNS), last)
    unit = fp8.UNIT if kind == "FLOAT8" else 1
    x_NI = x_NI[written, :end].astype(np.float64)
    scale = np.abs(x_NI) @ np.abs(wide_OI[column_4, :end]).T
    difference = np.abs(sum_N4[written] * unit - x_NI @ wide_OI[column_4, :end].T)
    assert np.all(difference <= 1e-5 * scale)
    np.testing.assert_array_equal(np.delete(sum_N4, written, 0), np.delete(before_N4, written, 0))


@given(st.integers(0, 3), st.integers(0, 2 * LINE - 1), st.sampled_from(list(NAN_CODES)), seeds)
def test_a_code_that_is_no_number_is_seen_wherever_it_is(row, column, code, seed):
    code_OI, _ = random_stored(np.random.default_rng(seed), "FLOAT8", (8, 2 * LINE))
    sum_N4, x_NI = np.zeros((4, COLUMNS), np.float32), np.ones((4, 2 * LINE), np.float32)
    code_OI[row, column] = np.uint8(code).view(np.int8)
    for rows in (1, 2, 3, 4):
        assert TILES["FLOAT8", rows](sum_N4, 0, x_NI, code_OI, 0, 7, 2 * LINE)
        assert not TILES["FLOAT8", rows](sum_N4, 0, x_NI, code_OI, 4, 7, 2 * LINE)


@pytest.mark.parametrize("kind", STORED_DTYPES)
def test_the_next_rows_are_asked_for(kind):
    call = TILES[kind, 1]
    w_OI, _ = random_stored(np.random.default_rng(0), kind, (COLUMNS, LINE))
    sum_N4, x_NI = np.zeros((1, COLUMNS), np.float32), np.ones((1, LINE), np.float32)
    call(sum_N4, 0, x_NI, w_OI, 0, COLUMNS - 1, LINE // w_OI.itemsize)
    for code in call.inspect_llvm().values():
        assert code.count("call void @llvm.prefetch") == COLUMNS


@pytest.mark.parametrize("size", [1, 2, 4])
@given(st.integers(0, 5), st.integers(1, 300), seeds)
def test_x_lies_as_words_of_a_weight_give_its_elements(size, N, inputs, seed):
    x_NI = np.random.default_rng(seed).standard_normal((N, inputs), np.float32)
    y_NI, step = interleave_words(x_NI, size), LINE // size
    per_word, end = WORD // size, inputs // step * step
    for i in range(end):
        vector, element = divmod(i, LANES * per_word)
        word, position = divmod(element, per_word)
        ordered = vector * LANES * per_word + position * LANES + word
        np.testing.assert_array_equal(y_NI[:, ordered], x_NI[:, i])
    np.testing.assert_array_equal(y_NI[:, end:], x_NI[:, end:])
    assert y_NI.shape == x_NI.shape


def test_x_itself_is_not_changed():
    x_NI = np.arange(256, dtype=np.float32).reshape(2, 128)
    before_NI = x_NI.copy()
    interleave_words(x_NI, 1)
    np.testing.assert_array_equal(x_NI, before_NI)
