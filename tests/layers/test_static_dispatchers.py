"""Buckets: the first has room for twice what even choices take, the last for any."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_block import AllToAll, by_all_gather
from mimo_v2_flash.layers.eager_dispatchers import Crowd
from mimo_v2_flash.layers.static_dispatchers import FEW_TOKENS, bucket_exchanges

PROMPT = Crowd(tokens=4096, own=128, ranks=32, experts=256, choices=8)


@st.composite
def crowds(draw) -> Crowd:
    ranks, share = draw(st.integers(1, 64)), draw(st.integers(1, 16))
    choices = draw(st.integers(1, min(8, ranks * share)))
    return Crowd(1, draw(st.integers(1, 600)), ranks, ranks * share, choices)


def test_a_chunk_on_32_ranks_has_three_buckets():
    # 128 x (1 - (31 / 32)^8) = 28.7 messages a rank, 4096 x 8 / 256 = 128 tokens an expert.
    sizes = [AllToAll(64, 256), AllToAll(120, 512), AllToAll(128, 4096)]
    assert list(bucket_exchanges(None, PROMPT)) == sizes


@given(crowds())
def test_buckets_grow_and_the_last_holds_whatever_comes(crowd):
    buckets = bucket_exchanges("all_to_all", crowd)
    assert buckets[-1] == AllToAll(crowd.own, crowd.own * crowd.ranks)
    for one, other in pairwise(buckets):
        assert (one.slots, one.seats) < (other.slots, other.seats)
        assert one.slots <= other.slots
        assert one.seats <= other.seats
    assert buckets[0].slots >= 1


@given(crowds())
def test_the_first_bucket_computes_little_more_than_twice_what_is_needed(crowd):
    first, *_ = bucket_exchanges("all_to_all", crowd)
    needed = crowd.own * crowd.ranks * crowd.choices / crowd.experts
    assert first.seats < 2 * needed + 8


@pytest.mark.parametrize("own", [1, FEW_TOKENS // 32])
def test_few_tokens_are_shown_to_all(own):
    assert bucket_exchanges(None, PROMPT._replace(own=own)) == (by_all_gather,)
    assert len(bucket_exchanges(None, PROMPT._replace(own=own + FEW_TOKENS))) == 3


def test_the_exchange_may_be_chosen_and_dense_layers_have_none():
    assert bucket_exchanges("all_gather", PROMPT) == (by_all_gather,)
    few = PROMPT._replace(own=1)
    assert all(isinstance(way, AllToAll) for way in bucket_exchanges("all_to_all", few))
    assert bucket_exchanges("all_to_all", PROMPT._replace(experts=0)) == (by_all_gather,)
