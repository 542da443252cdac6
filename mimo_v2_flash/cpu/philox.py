"""Compiled Philox4x64-10: random words by their place alone, where NumPy makes all before them too.

Source: Salmon et al., SC11, and philox.h of Random123; `numpy.random.Philox` makes the same words.
"""

import numpy as np
from numba import int64, types, uint64

from .code_cache import compile_now
from .loops import in_order, inlined

__all__ = ["fill_words"]

ROUNDS, PER_BLOCK = 10, 4
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
FIRST, SECOND = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
FIRST_KEY_STEP, SECOND_KEY_STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@inlined
def _high(a, b):
    """Return the upper 64 bits of the product of two words."""
    a_low, a_high, b_low, b_high = a & LOW, a >> HALF, b & LOW, b >> HALF
    low, cross = a_low * b_low, a_high * b_low
    middle = (low >> HALF) + (cross & LOW) + a_low * b_high
    return a_high * b_high + (cross >> HALF) + (middle >> HALF)


@in_order
def fill_words(key_2, counter_4, index_A, word_A):
    """Fill `word_A` with the words `index_A`, ascending, that NumPy makes from `counter_4` on.

    Each block of four words adds one to the counter's first word, which is 0, before it is made.
    """
    before, block_4 = -1, np.empty(PER_BLOCK, np.uint64)
    for a in range(index_A.size):
        block, place = divmod(index_A[a], PER_BLOCK)
        if block != before:
            before, k, m = block, key_2[0], key_2[1]
            w, x, y, z = np.uint64(block + 1), counter_4[1], counter_4[2], counter_4[3]
            for _ in range(ROUNDS):
                w, x, y, z = (
                    _high(SECOND, y) ^ x ^ k,
                    SECOND * y,
                    _high(FIRST, w) ^ z ^ m,
                    FIRST * w,
                )
                k, m = k + FIRST_KEY_STEP, m + SECOND_KEY_STEP
            block_4[0], block_4[1], block_4[2], block_4[3] = w, x, y, z
        word_A[a] = block_4[place]


WORDS = types.Array(uint64, 1, "C")
compile_now(fill_words, WORDS, WORDS, types.Array(int64, 1, "C", readonly=True), WORDS)
