"""Compiled Philox: NumPy's words, whichever of them are wanted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu.philox import fill_words

words = st.integers(0, 2**64 - 1)


@given(st.tuples(words, words), st.tuples(words, words, words), st.sets(st.integers(0, 3000)))
def test_words_are_numpys(key, counter, indices):
    key_2, counter_4 = np.array(key, np.uint64), np.array([0, *counter], np.uint64)
    index_A = np.array(sorted(indices), np.int64)
    word_A = np.empty(len(index_A), np.uint64)
    fill_words(key_2, counter_4, index_A, word_A)
    philox = np.random.Philox(key=key_2, counter=counter_4)
    np.testing.assert_array_equal(word_A, philox.random_raw(3001)[index_A])
