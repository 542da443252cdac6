"""A part of a product: which columns a loop fills, and that it touches no others.

@given(parts(), seeds)
def test_rows_fill_their_part(part, seed): ...
"""

import numpy as np
from hypothesis import strategies as st

from tests.support.stored_weights import OUTPUTS, assert_is_product

UNTOUCHED = np.float32(-77)


@st.composite
def parts(draw) -> tuple[int, int, int]:
    """Draw (outputs, start, end): a range of rows that may begin and end anywhere."""
    outputs = draw(st.sampled_from(OUTPUTS))
    start, end = sorted(draw(st.tuples(st.integers(0, outputs), st.integers(0, outputs))))
    return outputs, start, end


def assert_part_is_product(fill, x_NI, w, start: int, end: int) -> None:
    """Assert that `fill` writes the product into columns `start` to `end`, and no others."""
    y_NO = np.full((len(x_NI), w.shape[0]), UNTOUCHED)
    fill(y_NO)
    expected_NO = y_NO.copy()
    expected_NO[:, :start], expected_NO[:, end:] = UNTOUCHED, UNTOUCHED
    np.testing.assert_array_equal(y_NO, expected_NO)
    whole = w if isinstance(w, np.ndarray) else w.dequantize()
    assert_is_product(y_NO[:, start:end], x_NI, whole[start:end])
