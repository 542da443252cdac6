"""The compiled exponential against float64's."""

import numpy as np
from numba import njit

from mimo_v2_flash.cpu.exponential import exponential


@njit
def exponentials(x_N, y_N):
    for n in range(x_N.size):
        y_N[n] = exponential(x_N[n])


def test_it_is_e_to_the_x():
    x_N = np.concatenate([-np.logspace(-9, 1.93, 4000), np.linspace(-86.9, 0, 4000)])
    x_N = x_N.astype(np.float32)
    y_N = np.empty_like(x_N)
    exponentials(x_N, y_N)
    exact_N = np.exp(x_N.astype(np.float64))
    assert np.all(np.abs(y_N - exact_N) <= (2e-7 - 1e-7 * x_N) * exact_N)


def test_beyond_normal_numbers_it_is_zero_and_nan_stays_nan():
    x_N = np.array([-87.5, -1e30, -np.inf, np.nan, 0, -0.0], np.float32)
    y_N = np.empty_like(x_N)
    exponentials(x_N, y_N)
    np.testing.assert_array_equal(y_N, np.array([0, 0, 0, np.nan, 1, 1], np.float32))
