"""Tolerances of comparisons with an oracle: relative to the range of values, by dtype."""

import ml_dtypes
import numpy as np

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(ml_dtypes.bfloat16): 2.0**-7}


def assert_agrees(actual, expected, *, scale: float | None = None) -> None:
    """Assert that `actual` is `expected` up to TOLERANCE x `scale`.

    `scale` is the size of the terms that were added up, by default the largest expected value.
    """
    expected = np.asarray(expected, np.float64)
    if scale is None:
        scale = float(np.max(np.abs(expected), initial=0.0))
    tolerance = TOLERANCE[np.dtype(actual.dtype)] * scale
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=0, atol=tolerance)
