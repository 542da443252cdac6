"""Tests of the loops with a decoder of their own: no format is built into them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu.loops import inlined, rows_loop
from mimo_v2_flash.cpu.tile import SUMS, ElementFormat
from tests.support.drawn import seeds
from tests.support.part_products import assert_part_is_product, parts
from tests.support.stored_weights import INPUTS, random_rows


@inlined
def decode_negated(value):
    return -value


def decode_negated_words(build, words):
    return [build.fneg(build.bitcast(words, SUMS))]


negated_rows = rows_loop(ElementFormat(4, decode_negated_words, decode_negated))


@given(parts(), st.sampled_from(INPUTS), st.integers(1, 20), seeds)
def test_any_decoder_is_summed(part, inputs, N, seed):
    generator, (outputs, *span) = np.random.default_rng(seed), part
    w_OI, x_NI = random_rows(generator, outputs, inputs), random_rows(generator, N, inputs)
    assert_part_is_product(lambda y_NO: negated_rows(x_NI, w_OI, y_NO, *span), x_NI, -w_OI, *span)
