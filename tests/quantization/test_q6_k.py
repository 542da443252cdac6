"""Q6_K: gguf's numbers, an error of ggml's size, its products, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings

from tests.support.drawn import seeds
from tests.support.stored_blocks import (
    assert_compiled_is_plain,
    assert_dequantized_as_gguf,
    assert_is_as_good_as_ggml,
    assert_is_multiplied,
    assert_is_quantized_by_rows,
    assert_is_refused_beyond_its_scales,
    assert_sums_are_of_rows,
    random_blocks,
)


@given(seeds)
@settings(max_examples=10)
def test_any_bytes_are_the_numbers_of_gguf(seed):
    assert_dequantized_as_gguf("q6_k", seed)


@given(seeds)
@settings(max_examples=5)
def test_the_compiled_quantizer_has_the_bytes_of_numpys(seed):
    assert_compiled_is_plain("q6_k", seed)


@pytest.mark.parametrize("seed", range(3))
def test_its_error_is_ggmls(seed):
    assert_is_as_good_as_ggml("q6_k", seed)


def test_products_are_those_of_its_numbers():
    w = random_blocks(np.random.default_rng(0), "q6_k", 67, 5)
    assert_is_multiplied(w, 0)
    assert_sums_are_of_rows(w, 1)


def test_it_is_quantized_by_rows_and_what_it_cannot_is_refused():
    assert_is_quantized_by_rows("q6_k")
    assert_is_refused_beyond_its_scales("q6_k")
