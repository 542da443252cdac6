"""Loops of blocks: each fills exactly its columns, and what they cannot read is left to NumPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu import block_loops, q8_0
from tests.support.drawn import seeds
from tests.support.part_products import assert_part_is_product, parts
from tests.support.stored_blocks import random_blocks
from tests.support.stored_weights import random_rows


@given(parts(), st.integers(1, 6), st.integers(1, 9), seeds)
@settings(max_examples=40)
def test_rows_of_blocks_fill_their_part(part, blocks, N, seed):
    generator, (outputs, start, end) = np.random.default_rng(seed), part
    w = random_blocks(generator, "q8_0", outputs, blocks)
    x_NI = random_rows(generator, N, w.shape[1])

    def fill(y_NO):
        w.compiled.fill_columns(x_NI, y_NO, start, end)

    assert_part_is_product(fill, x_NI, w, start, end)


def test_bytes_that_do_not_lie_row_by_row_are_not_read():
    w = random_blocks(np.random.default_rng(0), "q8_0", 6, 4)
    assert block_loops.compiled_blocks(q8_0.LOOPS, w.data) is not None
    assert block_loops.compiled_blocks(q8_0.LOOPS, w.data[:, :68]) is None
    assert block_loops.compiled_blocks(q8_0.LOOPS, w.data, w.data[:, :2]) is None
