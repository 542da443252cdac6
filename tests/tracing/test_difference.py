"""Differences of tensors: size, size relative to the range, cosine, token, NaN and infinity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.tracing.difference import (
    NOTHING,
    difference_of,
    difference_of_expert_ids,
    difference_per_expert,
)
from tests.support.drawn import seeds

TOLERANCE = 1e-3
INFINITE = [np.nan, np.inf, -np.inf]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(seeds, st.integers(1, 6), st.integers(1, 5))
def test_a_tensor_is_no_way_from_itself(seed, tokens, width):
    x = normal(seed, tokens, width)
    difference = difference_of(x, x.copy(), 0.0)
    assert (difference.largest, difference.relative, difference.token, difference.note) == (
        0.0,
        0.0,
        -1,
        "",
    )
    assert difference.cosine == pytest.approx(1)


@given(seeds, st.integers(0, 5), st.floats(1e-2, 10))
def test_one_number_moved_is_found_at_its_token(seed, token, step):
    a = normal(seed, 6, 2, 3)
    b = a.astype(np.float64)
    b[token, 1, 2] += step
    difference = difference_of(a, b, TOLERANCE)
    assert difference.largest == pytest.approx(step)
    assert difference.relative == pytest.approx(step / np.ptp(a.astype(np.float64)))
    assert difference.cosine < 1
    assert (difference.token, difference.diverges) == (token, True)


def test_the_first_token_beyond_the_tolerance_is_named_and_not_the_largest():
    a, b = np.array([[0.0], [1.0], [0.5], [0.5]]), np.array([[1e-4], [1.0], [0.6], [0.9]])
    difference = difference_of(a, b, TOLERANCE)
    assert (difference.token, difference.largest) == (2, pytest.approx(0.4))


@pytest.mark.parametrize(("share", "diverges"), [(0.9, False), (1.1, True)])
def test_the_tolerance_is_a_share_of_the_range_of_a(share, diverges):
    a = np.array([[-100.0], [300.0]])
    b = a + np.array([[0.0], [share * TOLERANCE * 400]])
    assert difference_of(a, b, TOLERANCE).diverges is diverges


@pytest.mark.parametrize(("value", "size"), [(2.5, 2.5), (-2.5, 2.5), (0.0, 1.0)])
def test_where_all_is_equal_their_size_stands_for_the_range(value, size):
    a = np.full((3, 1), value)
    assert difference_of(a, a + 0.1, TOLERANCE).relative == pytest.approx(0.1 / size)


def test_opposite_and_zero_tensors_have_their_cosines():
    x = normal(0, 3, 4)
    assert difference_of(x, -x, TOLERANCE).cosine == pytest.approx(-1)
    assert difference_of(0 * x, 0 * x, TOLERANCE).cosine == 1
    assert difference_of(0 * x, x, TOLERANCE).cosine == 0


@pytest.mark.parametrize("value", INFINITE)
def test_what_is_not_finite_in_one_alone_diverges_whatever_is_allowed(value):
    a, b = normal(0, 3, 4), normal(0, 3, 4)
    b[1, 2] = value
    for pair, note in (
        ((a, b), "0 not finite in A, 1 in B"), ((b, a), "1 not finite in A, 0 in B"),
    ):  # fmt: skip
        difference = difference_of(*pair, 1e9)
        assert (difference.relative, difference.token, difference.note) == (np.inf, 1, note)


@pytest.mark.parametrize("value", INFINITE)
def test_what_is_not_finite_in_both_alike_agrees_and_is_said(value):
    a = normal(0, 3, 4)
    a[1, 2] = value
    difference = difference_of(a, a.copy(), TOLERANCE)
    assert (difference.largest, difference.diverges) == (0.0, False)
    assert difference.note == "1 not finite in A, 1 in B"


def test_nan_is_not_infinity_nor_is_one_infinity_the_other():
    a = np.array([[np.inf], [np.nan], [0.0]])
    for other in (-np.inf, np.nan):
        b = a.copy()
        b[0] = other
        assert difference_of(a, b, TOLERANCE).token == 0


def test_tensors_without_a_number_do_not_differ():
    assert difference_of(np.ones((0, 3)), np.ones((0, 3)), TOLERANCE) == NOTHING


@given(seeds)
def test_the_order_of_experts_means_nothing(seed):
    random = np.random.default_rng(seed)
    a_TA = np.stack([random.permutation(9)[:4] for _ in range(5)])
    order_TA = np.stack([random.permutation(4) for _ in range(5)])
    b_TA = np.take_along_axis(a_TA, order_TA, axis=1)
    assert not difference_of_expert_ids(a_TA, b_TA).diverges
    a = normal(seed, 5, 4, 3)
    b = np.take_along_axis(a, order_TA[..., None], axis=1)
    difference = difference_per_expert(a, b, a_TA, b_TA, 0.0)
    assert (difference.largest, difference.diverges, difference.note) == (0.0, False, "")


def test_another_expert_is_counted_and_its_token_named():
    a_TA = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    b_TA = np.array([[2, 1], [3, 9], [6, 5], [8, 0]])
    difference = difference_of_expert_ids(a_TA, b_TA)
    assert (difference.largest, difference.relative, difference.token) == (2.0, 0.5, 1)
    assert difference.note == "2 of 4 tokens chose other experts"


def test_tokens_that_chose_others_are_left_out_of_per_expert_tensors():
    a_TA, b_TA = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[1, 9], [3, 4], [6, 5]])
    a = np.arange(6.0).reshape(3, 2)
    b = np.array([[50.0, 50.0], [2.0, 3.0], [5.0, 4.0]])
    difference = difference_per_expert(a, b, a_TA, b_TA, TOLERANCE)
    assert (difference.largest, difference.token, difference.note) == (
        0.0,
        -1,
        "tokens left out: 1",
    )
    b[2, 0] += 1
    assert difference_per_expert(a, b, a_TA, b_TA, TOLERANCE).token == 2
    difference = difference_per_expert(a, b, a_TA, a_TA + 9, TOLERANCE)
    assert (difference.diverges, difference.note) == (False, "tokens left out: 3")
