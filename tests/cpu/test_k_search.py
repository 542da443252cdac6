"""The compiled searches where they could differ from NumPy's: single groups, any size."""

import numpy as np
import pytest

from mimo_v2_flash.cpu.k_search import SEARCHES
from mimo_v2_flash.quantization import get_format


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("size", [1e-18, 1e-12, 1.0, 1e12])
def test_groups_of_any_size_have_numpys_numbers(name, size):
    form = get_format(name)
    generator = np.random.default_rng(0)
    for groups in (1, 300):
        x_GP = generator.standard_normal((groups, form.group), np.float32) * np.float32(size)
        with np.errstate(all="ignore"):
            expected = form.search(np.ascontiguousarray(x_GP.T))
        for actual_G, expected_G in zip(SEARCHES[name](x_GP), expected, strict=True):
            np.testing.assert_array_equal(actual_G, expected_G)
