"""Tests of attention_swa: against its reference and transformers, the window's end, its cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.attention_swa import attention_swa
from mimo_v2_flash.reference import attention_swa as oracle
from tests.support.agreement import assert_agrees
from tests.support.counting import Cost, counted
from tests.support.kinds import every_kind
from tests.support.steps import Step, random_step, steps
from tests.support.transformers_attention import eager_attention

WINDOW, BLOCK = 129, 128
LARGEST = 3e38


def after_a_cache(step: Step, count: int) -> Step:
    """Return `step` without its first `count` tokens, which are in the cache."""
    cached, new = ([part[:, side] for part in step[:4]] for side in (np.s_[:count], np.s_[count:]))
    return Step(*new, *cached[1:], step.sink_H)


def cost_of_a_prompt(T: int) -> Cost:
    step = random_step(T=T, K=2, G=2)
    with counted() as cost:
        attention_swa(*step, window=WINDOW, query_block=BLOCK)
    return cost


@every_kind
@settings(max_examples=100)
@given(steps(), st.integers(1, 9), st.integers(1, 8))
def test_it_is_its_oracle(on, step, window, query_block):
    kwargs = {"window": window, "query_block": query_block}
    actual = on(attention_swa)(*step, **kwargs)
    assert actual.dtype == step.q_BTHQ.dtype
    assert_agrees(actual, oracle.attention_swa(*step, **kwargs), scale=4)


def test_it_is_transformers_where_a_token_sees_129():
    step = random_step(starts=(0, 0), T=200)
    expected, window = eager_attention(step, sliding=True)
    assert window == WINDOW
    assert_agrees(attention_swa(*step, window=window, query_block=64), expected)


@pytest.mark.parametrize("query_block", [1, 3, 100])
@pytest.mark.parametrize("cached", [0, 5, 9])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_the_window_ends_where_it_ends(window, cached, query_block):
    # The last of ten tokens is the query; `cached` of the others are in the cache.
    def last_token(changed: int):
        step = random_step(T=10)
        for part in step[1:3]:
            part[:, 9 - changed] += 1
        y_BTHC = attention_swa(*after_a_cache(step, cached), window=window, query_block=query_block)
        return y_BTHC[:, -1]

    untouched = last_token(changed=9)
    assert (last_token(changed=window - 1) != untouched).any()
    for distance in range(window, 9):
        np.testing.assert_array_equal(last_token(changed=distance), untouched)


@pytest.mark.parametrize("poison", [np.nan, np.inf, LARGEST])
def test_a_key_older_than_the_window_may_hold_anything(poison):
    step = after_a_cache(random_step(T=10), 6)
    before = attention_swa(*step, window=3, query_block=2)
    step.prior_k_BSKQ[:, :4], step.prior_v_BSKC[:, :4] = poison, LARGEST
    with np.errstate(invalid="ignore", over="ignore"):
        np.testing.assert_array_equal(attention_swa(*step, window=3, query_block=2), before)


@given(steps(), st.integers(1, 8))
def test_a_window_wider_than_everything_is_full_attention(step, query_block):
    np.testing.assert_array_equal(
        attention_swa(*step, window=100, query_block=query_block),
        attention_full(*step, query_block=query_block),
    )


@pytest.mark.parametrize("window", [0, -1])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match="attention_swa: window must be at least 1"):
        attention_swa(*random_step(), window=window, query_block=2)


def test_cost_grows_linearly():
    short, long = cost_of_a_prompt(1024), cost_of_a_prompt(4096)
    assert long.multiply_adds < 4.6 * short.multiply_adds
    assert long.peak_bytes < 4.6 * short.peak_bytes


def test_a_query_costs_its_window_and_its_block():
    T, H, Q, C = 4096, 4, 8, 4
    assert cost_of_a_prompt(T).multiply_adds <= T * H * (Q + C) * (WINDOW - 1 + BLOCK)


def test_only_blocks_within_the_window_look_at_the_cache():
    T, S, H, Q, C = 1024, 132, 4, 8, 4
    step = random_step(starts=(S,), T=T, S=S)
    with counted() as cost:
        attention_swa(*step, window=WINDOW, query_block=BLOCK)
    queries = -(-(WINDOW - 1) // BLOCK) * BLOCK
    extra = cost.multiply_adds - cost_of_a_prompt(T).multiply_adds
    assert extra == queries * S * H * (Q + C)
