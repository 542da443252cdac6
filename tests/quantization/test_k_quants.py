"""What K-quants share: rounding, sums in order, the largest magnitude, quotients."""

import numpy as np
import pytest

from mimo_v2_flash.quantization import get_format, k_quants
from mimo_v2_flash.quantization.k_quants import largest_first, nearest, quotient, sum_positions


def test_halves_are_rounded_to_even_within_bounds():
    values = np.array([0.5, 1.5, -2.5, 9, -9], np.float32)
    np.testing.assert_array_equal(nearest(values, -4, 3), [0, 2, -2, 3, -4])


def test_sums_are_in_order():
    values_PG = np.float32([[2**24], [1], [1], [-(2**24)]])
    assert sum_positions(values_PG) == 0
    assert sum_positions(values_PG[[1, 2, 0, 3]]) == 2


def test_the_first_of_the_largest_magnitude_is_chosen():
    values_PG = np.float32([[1, -3], [-2, 3], [2, 0]])
    np.testing.assert_array_equal(largest_first(values_PG), [-2, -3])


def test_a_quotient_by_zero_is_zero():
    np.testing.assert_array_equal(quotient(np.float32([1, 6]), np.float32([0, -3])), [0, -2])


@pytest.mark.parametrize("name", ["q6_k", "q4_k", "q3_k"])
def test_without_numba_bytes_are_the_same(monkeypatch, name):
    w_OI = np.random.default_rng(0).standard_normal((3, 512), np.float32)
    expected = get_format(name).quantize(w_OI)
    monkeypatch.setattr(k_quants, "compiled_module", lambda _: None)
    np.testing.assert_array_equal(get_format(name).quantize(w_OI).data, expected.data)
