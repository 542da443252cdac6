"""Compiled loops over tokens at MiMo's widths, against float64."""

import numpy as np

from mimo_v2_flash.cpu.row_loops import norm_rows, route_rows
from mimo_v2_flash.reference import moe_router, rmsnorm


def test_norm_of_wide_rows_is_float64s():
    generator = np.random.default_rng(0)
    x_ND = np.exp(generator.uniform(-9, 9, (3, 4096))).astype(np.float32)
    weight_D, y_ND = generator.random(4096, np.float32), np.empty((3, 4096), np.float32)
    norm_rows(x_ND, weight_D, np.float32(1e-5), y_ND)
    expected_ND = rmsnorm.rmsnorm(x_ND, weight_D, epsilon=1e-5)
    np.testing.assert_allclose(y_ND, expected_ND, rtol=2e-6)


def test_router_of_256_experts_is_float64s():
    generator = np.random.default_rng(0)
    x_ND, w_ED = np.eye(3, 64, dtype=np.float32), generator.standard_normal((256, 64), np.float32)
    bias_E = generator.standard_normal(256, np.float32)
    weight_NA, expert_NA = np.empty((3, 8), np.float32), np.empty((3, 8), np.int32)
    route_rows(x_ND @ w_ED.T, bias_E, np.float32(1), weight_NA, expert_NA)
    expected = moe_router.moe_router(x_ND, w_ED, bias_E, experts_per_token=8, scaling=1.0)
    np.testing.assert_array_equal(expert_NA, expected[1])
    np.testing.assert_allclose(weight_NA, expected[0], rtol=1e-6)
