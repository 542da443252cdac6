"""Tests of hidden_ring: what was written is read, in whatever dtype and of whatever width."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.hidden_ring import take_hidden, write_hidden
from mimo_v2_flash.kernels.kv_cache import KVCache
from tests.support.drawn import floats, seeds

ROWS = 9


def ring(D: int, dtype) -> KVCache:
    halves = (np.zeros((ROWS + 1, 1, half), dtype) for half in (D - D // 2, D // 2))
    return KVCache(*halves, np.full(ROWS + 1, -1, np.int32))


@given(st.integers(1, 8), floats, floats, st.permutations(range(ROWS)), seeds)
def test_hidden_states_are_read_as_they_were_written(D, dtype, kept, rows, seed):
    cache, count = ring(D, kept), 4
    x_ND = np.random.default_rng(seed).standard_normal((count, D)).astype(dtype)
    row_N = np.array(rows[:count], np.int32)
    write_hidden(cache, x_ND, np.arange(count, dtype=np.int32), row_N)
    hidden_ND = take_hidden(cache, row_N[::-1].copy())
    assert hidden_ND.dtype == np.float32
    np.testing.assert_array_equal(hidden_ND[::-1], x_ND.astype(kept).astype(np.float32))
    assert not take_hidden(cache, np.array(rows[count:], np.int32)).any()
    assert sorted(cache.position_Z[rows[:count]]) == [0, 1, 2, 3]


def test_padding_goes_to_the_trash():
    cache = ring(3, ml_dtypes.bfloat16)
    x_ND = np.ones((2, 3), np.float32)
    write_hidden(cache, x_ND, np.array([5, -1], np.int32), np.array([2, ROWS], np.int32))
    assert np.flatnonzero(take_hidden(cache, np.arange(ROWS, dtype=np.int32))[:, 0]).tolist() == [2]
    assert cache.position_Z.tolist() == [-1, -1, 5, *[-1] * 7]


def test_rows_that_are_no_int32_are_refused():
    with pytest.raises(ValueError, match="row_N"):
        take_hidden(ring(3, np.float32), np.arange(2))
