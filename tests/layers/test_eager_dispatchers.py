"""The host's exchange: any number of tokens on any rank, nothing lost, nothing sent to spare."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, moe_block
from mimo_v2_flash.layers.eager_dispatchers import (
    FEW_TOKENS,
    MoEStepShape,
    RaggedAllToAllDispatcher,
    eager_dispatchers,
)
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.reference import moe_block as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import floats, seeds
from tests.support.routed import Layer, random_layer, summed

CHOICE = {"experts_per_token": 3, "scaling": 2.5}


class Counting:
    """A group that notes how many rows this rank gives to others, and how wide they are."""

    def __init__(self, group: ThreadGroup) -> None:
        self.size, self.rank, self._group = group.size, group.rank, group
        self.sent: list[tuple[int, int]] = []

    def ragged_all_to_all(self, x_ND, count_P):
        """Exchange, and note."""
        others = np.delete(count_P, self.rank)
        self.sent.append((int(np.sum(others)), x_ND.shape[1] * x_ND.itemsize))
        return self._group.ragged_all_to_all(x_ND, count_P)


class Said(NamedTuple):
    """What a rank said, and the rows that it gave to others: how many, how many bytes wide."""

    y_ND: np.ndarray
    overflow_1: np.ndarray
    sent: list[tuple[int, int]]


def on_ranks(layer: Layer, counts: list[int]) -> list[Said]:
    """Return what each rank says of its tokens, counts[rank] of the layer's."""
    group, ends = ThreadGroup(len(counts)), np.cumsum([0, *counts])
    x_ND, position_N, w_router_ED, bias_E, *experts = layer

    def of_rank(rank: int) -> Said:
        own, here = slice(ends[rank], ends[rank + 1]), Counting(group)
        share = len(bias_E) // len(counts)
        weights = [w[rank * share : (rank + 1) * share] for w in experts]
        y_ND, overflow_1 = moe_block(
            x_ND[own],
            position_N[own],
            w_router_ED,
            bias_E,
            np.array([rank], np.int32),
            lambda *tokens: grouped_experts(*tokens, *weights),
            group=here,
            dispatcher=RaggedAllToAllDispatcher(),
            **CHOICE,
        )
        return Said(y_ND, overflow_1, here.sent)

    return group.run(of_rank)


def assert_is_oracle(layer: Layer, said: list[Said]) -> None:
    y_ND = np.concatenate([part.y_ND for part in said])
    expected_ND = oracle.moe_block(*layer, **CHOICE)
    scale = CHOICE["scaling"] * summed(layer.x_ND, *layer[4:])
    assert_agrees(y_ND.astype(layer.x_ND.dtype), expected_ND, scale=scale)
    assert not any(part.overflow_1.any() for part in said)


@settings(max_examples=40)
@given(st.data(), seeds, floats, st.sampled_from([0.0, 0.4, 1.0]))
def test_any_number_of_tokens_on_any_rank_is_its_oracle(data, seed, dtype, padding):
    counts = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(any))
    share = data.draw(st.integers(-(-3 // len(counts)), 3))
    sizes = {"N": sum(counts), "E": share * len(counts)}
    layer = random_layer(seed, **sizes, dtype=dtype, padding=padding)
    assert_is_oracle(layer, on_ranks(layer, counts))


@pytest.mark.parametrize("counts", [[1, 0, 0, 0], [0, 0, 0, 9], [3, 3, 3, 3], [0, 12, 1, 0]])
@pytest.mark.parametrize("favourite", [0, 3])
def test_all_tokens_may_choose_one_rank(counts, favourite):
    layer = random_layer(N=sum(counts), E=12)
    layer.bias_E[3 * favourite : 3 * favourite + 3] += 50
    said = on_ranks(layer, counts)
    assert_is_oracle(layer, said)
    expected = [0 if rank == favourite else count for rank, count in enumerate(counts)]
    assert [part.sent[0][0] for part in said] == expected


def test_a_token_travels_once_to_each_other_rank_that_it_chose():
    counts, ranks = [5, 0, 9, 2], 4
    layer = random_layer(N=16, E=12, padding=0.2)
    score_NE = 1 / (1 + np.exp(-(layer.x_ND @ layer.w_router_ED.T))) + layer.bias_E
    holder_NA = np.argsort(-score_NE, kind="stable")[:, :3] // 3
    own_N = np.repeat(np.arange(ranks), counts)
    least = sum(
        len(set(holders) - {own})
        for holders, own, position in zip(holder_NA.tolist(), own_N, layer.position_N, strict=True)
        if position >= 0
    )
    said = on_ranks(layer, counts)
    there, back = zip(*(part.sent for part in said), strict=True)
    assert sum(rows for rows, _ in there) == sum(rows for rows, _ in back) == least
    width = layer.x_ND.shape[1] * 4
    assert {wide for _, wide in there} == {width + 3 * 4 + 3 * 4}  # weights and choices beside it
    assert {wide for _, wide in back} == {width}


def test_messages_keep_every_bit():
    layer = random_layer(N=6, E=6, dtype=ml_dtypes.bfloat16)
    group, seen = ThreadGroup(2), []

    def of_rank(rank: int) -> None:
        x_ND = layer.x_ND[3 * rank : 3 * rank + 3]
        weight_NA = np.array([[0.1, 1e-38], [np.pi, 3], [0, 1]], np.float32)
        expert_NA = np.full((3, 2), [1 - rank, 2], np.int32)  # the other rank, and nobody

        def expert_fn(x, weight, expert):
            seen.append((rank, x, weight, expert))
            return x.astype(np.float32)

        y_ND, _ = RaggedAllToAllDispatcher()(
            x_ND, weight_NA, expert_NA, expert_fn, group=group, num_experts=2
        )
        np.testing.assert_array_equal(y_ND, x_ND.astype(np.float32))

    group.run(of_rank)
    for rank, x, weight, expert in seen:
        np.testing.assert_array_equal(x, layer.x_ND[3 - 3 * rank : 6 - 3 * rank])
        assert (x.dtype, weight.dtype, expert.dtype) == (ml_dtypes.bfloat16, np.float32, np.int32)
        assert weight.tolist() == np.array([[0.1, 1e-38], [np.pi, 3], [0, 1]], np.float32).tolist()
        assert expert.tolist() == [[rank, 2]] * 3


def test_few_tokens_are_shown_to_all_and_many_are_sent():
    for tokens, way in (
        (1, AllGatherDispatcher()),
        (FEW_TOKENS, AllGatherDispatcher()),
        (33, RaggedAllToAllDispatcher()),
    ):
        assert eager_dispatchers(
            None, MoEStepShape(tokens, local_tokens=9, ranks=2, num_experts=8, experts_per_token=2)
        ) == (way,)
