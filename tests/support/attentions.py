"""Full and sliding-window attention under one signature, for tests of both."""

import numpy as np
import pytest

from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.attention_swa import attention_swa


def full(*step, query_block: int = 3):
    return attention_full(*step, query_block=query_block)


def swa(*step, query_block: int = 3):
    return attention_swa(*step, window=5, query_block=query_block)


both = pytest.mark.parametrize("attention", [full, swa])


def assert_same(actual, expected) -> None:
    """Assert that float32 results are equal up to the order of their sums."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)
