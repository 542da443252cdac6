"""Tests of attention_full: against its reference and transformers, and its cost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.attention_full import attention_full
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.reference import attention_full as oracle
from tests.support.agreement import assert_agrees
from tests.support.counting import counted
from tests.support.drawn import FLOATS
from tests.support.kinds import every_kind
from tests.support.steps import random_step, steps
from tests.support.transformers_attention import eager_attention

FLOAT32_BYTES = 4


@every_kind
@settings(max_examples=100)
@given(steps(), st.integers(1, 8))
def test_it_is_its_oracle(on, step, query_block):
    actual = on(attention_full)(*step, query_block=query_block)
    assert actual.dtype == step.q_BTHQ.dtype
    assert_agrees(actual, oracle.attention_full(*step, query_block=query_block), scale=4)


def test_it_is_transformers():
    step = random_step(starts=(0, 0), T=150, sink=NO_SINK)
    expected, _ = eager_attention(step, sliding=False)
    assert_agrees(attention_full(*step, query_block=64), expected)


def test_the_first_token_is_never_forgotten():
    step = random_step(T=300, Q=2)
    before = attention_full(*step, query_block=64)
    step.v_BTKC[:, 0] += 100
    assert (attention_full(*step, query_block=64)[:, -1] != before[:, -1]).all()


@pytest.mark.parametrize(("T", "fraction"), [(1024, 0.57), (4096, 0.52)])
def test_a_prompt_takes_half_the_work_of_a_square(T, fraction):
    step, block = random_step(T=T, K=1, G=2), 128
    (B, _, H, Q), C = step.q_BTHQ.shape, step.v_BTKC.shape[-1]
    with counted() as cost:
        attention_full(*step, query_block=block)
    assert cost.multiply_adds <= fraction * B * H * T * T * (Q + C)


@pytest.mark.parametrize("S", [0, 2048])
def test_scores_take_the_memory_of_one_block(S):
    T, block = 2048, 64
    step = random_step(starts=(S,), T=T, S=S, K=1, G=2)
    with counted() as cost:
        attention_full(*step, query_block=block)
    scores = block * (S + T) * step.q_BTHQ.shape[2] * FLOAT32_BYTES
    blocks_and_their_concatenation = 2 * step.q_BTHQ.nbytes
    assert cost.peak_bytes < 6 * scores + blocks_and_their_concatenation
    assert cost.peak_bytes < T * (S + T) * FLOAT32_BYTES


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_decoding_neither_copies_nor_repeats_the_cache(dtype):
    S, (H, Q, C) = 32_768, (4, 64, 64)
    step = random_step(starts=(S,), T=1, S=S, K=2, G=2, Q=Q, C=C, dtype=dtype)
    with counted() as cost:
        attention_full(*step, query_block=64)
    assert cost.multiply_adds == (S + 1) * H * (Q + C)
    assert cost.peak_bytes < step.prior_k_BSKQ.nbytes
