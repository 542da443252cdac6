"""Every kernel test runs twice: on NumPy's arrays and on the strict arrays of the dialect.

@every_kind
@given(...)
def test_norm_is_one(on, x_BTD): ... on(rmsnorm)(x_BTD, ...)
"""

import pytest

from tests.support.dialect import strictly
from tests.support.shape_contract import contracted


def _on_numpy(kernel):
    return contracted(kernel)


def _on_strict_arrays(kernel):
    return contracted(strictly(kernel))


every_kind = pytest.mark.parametrize("on", [_on_numpy, _on_strict_arrays], ids=["numpy", "strict"])
