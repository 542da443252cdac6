"""A check pairs the outputs of a kernel with those of its oracle."""

import numpy as np
import pytest

from mimo_v2_flash.checks.check import Check, beside_oracle, normal
from mimo_v2_flash.kernels import rmsnorm


def test_one_output_is_one_pair():
    x_ND, weight_D = normal(np.random.default_rng(0), 2, 8), np.ones(8, np.float32)
    ((actual, expected),) = beside_oracle("rmsnorm", "rmsnorm", x_ND, weight_D, epsilon=1e-5)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert expected.dtype == np.float64


def test_several_outputs_are_several_pairs():
    logits_NV = normal(np.random.default_rng(0), 2, 9)
    (values, expected_values), (tokens, expected_tokens) = beside_oracle(
        "sampling", "top_k", logits_NV, k=3
    )
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(tokens, expected_tokens)


def test_a_fault_in_the_kernel_shows(monkeypatch):
    monkeypatch.setattr(rmsnorm, "rmsnorm", lambda x_ND, _, epsilon: x_ND + 0 * epsilon)
    x_ND = normal(np.random.default_rng(0), 1, 8) * np.float32(9)
    ((actual, expected),) = beside_oracle(
        "rmsnorm", "rmsnorm", x_ND, np.ones(8, np.float32), epsilon=1e-5
    )
    assert actual.ravel() != pytest.approx(expected.ravel(), abs=0.1)


@pytest.mark.parametrize(
    ("actual", "error"), [(2.0, 0.0), (2.5, 0.25), (np.nan, np.inf), ([2.0, 2.0], np.inf)]
)
def test_the_error_is_relative_to_the_largest_expected_value(actual, error):
    pairs = [(np.array([2.0]), np.array([2.0])), (np.array([actual]), np.array([-2.0]) * -1)]
    outcome = Check("softmax", "a fault", 1e-6, lambda _: pairs).measure(seed=0)
    assert outcome.error == pytest.approx(error)
    assert outcome.seconds >= 0


def test_the_seed_makes_the_inputs():
    check = Check("softmax", "inputs", 1e-6, lambda random: [(normal(random, 3), np.ones(3))])
    assert check.measure(1).error == check.measure(1).error != check.measure(2).error
