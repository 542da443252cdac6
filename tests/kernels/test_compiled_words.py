"""compiled_words: x in the order in which words give their elements, and nothing lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.compiled_words import LANES, LINE, WORD, interleave_words
from tests.support.drawn import seeds


@pytest.mark.parametrize("size", [1, 2, 4])
@given(st.integers(0, 5), st.integers(1, 300), seeds)
def test_x_lies_as_words_of_a_weight_give_its_elements(size, N, inputs, seed):
    x_NI = np.random.default_rng(seed).standard_normal((N, inputs), np.float32)
    y_NI, step = interleave_words(x_NI, size), LINE // size
    each, end = WORD // size, inputs // step * step
    for i in range(end):
        vector, within = divmod(i, LANES * each)
        word, place = divmod(within, each)
        ordered = vector * LANES * each + place * LANES + word
        np.testing.assert_array_equal(y_NI[:, ordered], x_NI[:, i])
    np.testing.assert_array_equal(y_NI[:, end:], x_NI[:, end:])
    assert y_NI.shape == x_NI.shape


def test_x_itself_is_not_changed():
    x_NI = np.arange(256, dtype=np.float32).reshape(2, 128)
    before_NI = x_NI.copy()
    interleave_words(x_NI, 1)
    np.testing.assert_array_equal(x_NI, before_NI)
