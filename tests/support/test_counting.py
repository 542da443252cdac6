"""counting: multiply-adds of a known product, bytes of known arrays."""

import numpy as np

from mimo_v2_flash.kernels import ops
from tests.support.counting import counted


def test_a_product_of_matrices_costs_the_product_of_its_lengths():
    x, w = np.ones((2, 1, 3, 5), np.float32), np.ones((4, 7, 5), np.float32)
    with counted() as cost:
        ops.matmul(x, w)
        ops.matmul(x[0, 0], w[0])
    assert (cost.matmuls, cost.multiply_adds) == (2, 2 * 4 * 3 * 7 * 5 + 3 * 7 * 5)


def test_the_peak_is_the_memory_held_at_one_time():
    held = np.ones(1 << 20, np.uint8)
    with counted() as cost:
        np.sum(held + held)
        np.sum(held + held)
    assert held.nbytes <= cost.peak_bytes < 1.1 * held.nbytes


def test_matmul_is_restored():
    before = ops.matmul
    with counted():
        assert ops.matmul is not before
    assert ops.matmul is before
