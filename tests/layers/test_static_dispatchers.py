"""Capacity buckets: the first has twice the capacity of balanced routing, the last any."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher
from mimo_v2_flash.layers.eager_dispatchers import MoEStepShape
from mimo_v2_flash.layers.static_dispatchers import STATIC_ALL_GATHER_TOKENS, static_dispatchers

PROMPT = MoEStepShape(tokens=4096, local_tokens=128, ranks=32, num_experts=256, experts_per_token=8)


@st.composite
def step_shapes(draw) -> MoEStepShape:
    ranks = draw(st.integers(1, 64))
    num_experts = ranks * draw(st.integers(1, 16))
    experts_per_token = draw(st.integers(1, min(8, num_experts)))
    return MoEStepShape(1, draw(st.integers(1, 600)), ranks, num_experts, experts_per_token)


def test_a_chunk_on_32_ranks_has_three_buckets():
    # 128 x (1 - (31 / 32)^8) = 28.7 messages a rank, 4096 x 8 / 256 = 128 tokens an expert.
    sizes = [
        AllToAllDispatcher(64, 256),
        AllToAllDispatcher(120, 512),
        AllToAllDispatcher(128, 4096),
    ]
    assert list(static_dispatchers(None, PROMPT)) == sizes


@given(step_shapes())
def test_buckets_grow_and_the_last_holds_whatever_comes(shape):
    buckets = static_dispatchers("all_to_all", shape)
    assert buckets[-1] == AllToAllDispatcher(shape.local_tokens, shape.local_tokens * shape.ranks)
    for one, other in pairwise(buckets):
        assert (one.send_capacity, one.capacity) < (other.send_capacity, other.capacity)
        assert one.send_capacity <= other.send_capacity
        assert one.capacity <= other.capacity
    assert buckets[0].send_capacity >= 1


@given(step_shapes())
def test_the_first_bucket_computes_little_more_than_twice_what_is_needed(shape):
    first, *_ = static_dispatchers("all_to_all", shape)
    needed = shape.local_tokens * shape.ranks * shape.experts_per_token / shape.num_experts
    assert first.capacity < 2 * needed + 8


@pytest.mark.parametrize("local_tokens", [1, STATIC_ALL_GATHER_TOKENS // 32])
def test_few_tokens_are_shown_to_all(local_tokens):
    few = PROMPT._replace(local_tokens=local_tokens)
    many = PROMPT._replace(local_tokens=local_tokens + STATIC_ALL_GATHER_TOKENS)
    assert static_dispatchers(None, few) == (AllGatherDispatcher(),)
    assert len(static_dispatchers(None, many)) == 3


def test_the_exchange_may_be_chosen_and_dense_layers_have_none():
    assert static_dispatchers("all_gather", PROMPT) == (AllGatherDispatcher(),)
    few = PROMPT._replace(local_tokens=1)
    for dispatcher in static_dispatchers("all_to_all", few):
        assert isinstance(dispatcher, AllToAllDispatcher)
    dense = PROMPT._replace(num_experts=0)
    assert static_dispatchers("all_to_all", dense) == (AllGatherDispatcher(),)
