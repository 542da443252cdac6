"""Tests of blas: the product is NumPy's, and NaN stays, without a warning."""

import numpy as np

from mimo_v2_flash.cpu.blas import times_transposed


def test_it_contracts_the_last_axis_of_both():
    random = np.random.default_rng(0)
    x, w = random.standard_normal((2, 3, 5)), random.standard_normal((2, 4, 5))
    expected = np.einsum("bni,boi->bno", x, w)
    np.testing.assert_allclose(times_transposed(x, w), expected)


def test_it_writes_where_it_is_told():
    x, w = np.ones((3, 5), np.float32), np.ones((4, 5), np.float32)
    y = np.zeros((3, 8), np.float32)
    times_transposed(x, w, out=y[:, 2:6])
    np.testing.assert_array_equal(y[:, 2:6], 5)
    np.testing.assert_array_equal(y[:, [0, 1, 6, 7]], 0)


def test_infinity_times_zero_is_silent_and_not_a_number():
    x, w = np.array([[np.inf, 1]], np.float32), np.array([[0, 1]], np.float32)
    assert np.isnan(times_transposed(x, w)).all()  # warnings are errors in this suite
