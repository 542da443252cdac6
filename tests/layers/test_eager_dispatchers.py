"""Ragged all-to-all dispatch: any number of tokens per rank, each sent once, none lost."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_block import moe_block
from mimo_v2_flash.layers.eager_dispatchers import (
    EAGER_ALL_GATHER_TOKENS,
    MoEStepShape,
    PaddedAllGatherDispatcher,
    RaggedAllToAllDispatcher,
    eager_dispatchers,
)
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.reference import moe_block as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import floats, seeds
from tests.support.routed import Layer, random_layer, summed

ROUTING = {"experts_per_token": 3, "scaling": 2.5}


class CountingGroup:
    """A process group that records the rows that this rank sends to others, and their bytes."""

    def __init__(self, group: ThreadGroup) -> None:
        self.size, self.rank, self._group = group.size, group.rank, group
        self.sent: list[tuple[int, int]] = []

    def ragged_all_to_all(self, x_ND, count_P):
        """Record the rows sent to other ranks, then run the collective."""
        others = np.delete(count_P, self.rank)
        self.sent.append((int(np.sum(others)), x_ND.shape[1] * x_ND.itemsize))
        return self._group.ragged_all_to_all(x_ND, count_P)


class RankOutput(NamedTuple):
    """A rank's output, and the (number, bytes) of rows that it sent to others."""

    y_ND: np.ndarray
    overflow_1: np.ndarray
    sent: list[tuple[int, int]]


def on_ranks(layer: Layer, counts: list[int]) -> list[RankOutput]:
    """Return each rank's output for its tokens, counts[rank] of the layer's."""
    group, ends = ThreadGroup(len(counts)), np.cumsum([0, *counts])
    x_ND, position_N, w_router_ED, bias_E, *_ = layer

    def on_rank(rank: int) -> RankOutput:
        local_rows, counting = slice(ends[rank], ends[rank + 1]), CountingGroup(group)
        size = len(bias_E) // len(counts)
        experts = layer.experts[rank * size : (rank + 1) * size]
        y_ND, overflow_1 = moe_block(
            x_ND[local_rows],
            position_N[local_rows],
            w_router_ED,
            bias_E,
            np.array([rank], np.int32),
            lambda *tokens: grouped_experts(*tokens, experts),
            group=counting,
            dispatcher=RaggedAllToAllDispatcher(),
            **ROUTING,
        )
        return RankOutput(y_ND, overflow_1, counting.sent)

    return group.run(on_rank)


def assert_is_oracle(layer: Layer, outputs: list[RankOutput]) -> None:
    y_ND = np.concatenate([output.y_ND for output in outputs])
    expected_ND = oracle.moe_block(*layer, **ROUTING)
    scale = ROUTING["scaling"] * summed(layer.x_ND, *layer[4:])
    assert_agrees(y_ND.astype(layer.x_ND.dtype), expected_ND, scale=scale)
    assert not any(output.overflow_1.any() for output in outputs)


@settings(max_examples=40)
@given(st.data(), seeds, floats, st.sampled_from([0.0, 0.4, 1.0]))
def test_any_number_of_tokens_on_any_rank_is_its_oracle(data, seed, dtype, padding):
    counts = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(any))
    experts_per_rank = data.draw(st.integers(-(-3 // len(counts)), 3))
    sizes = {"N": sum(counts), "E": experts_per_rank * len(counts)}
    layer = random_layer(seed, **sizes, dtype=dtype, padding=padding)
    assert_is_oracle(layer, on_ranks(layer, counts))


@pytest.mark.parametrize("counts", [[1, 0, 0, 0], [0, 0, 0, 9], [3, 3, 3, 3], [0, 12, 1, 0]])
@pytest.mark.parametrize("favourite", [0, 3])
def test_all_tokens_may_choose_one_rank(counts, favourite):
    layer = random_layer(N=sum(counts), E=12)
    layer.bias_E[3 * favourite : 3 * favourite + 3] += 50
    outputs = on_ranks(layer, counts)
    assert_is_oracle(layer, outputs)
    expected = [0 if rank == favourite else count for rank, count in enumerate(counts)]
    assert [output.sent[0][0] for output in outputs] == expected


def test_a_token_travels_once_to_each_other_rank_that_it_chose():
    counts, ranks = [5, 0, 9, 2], 4
    layer = random_layer(N=16, E=12, padding=0.2)
    score_NE = 1 / (1 + np.exp(-(layer.x_ND @ layer.w_router_ED.T))) + layer.bias_E
    rank_NA = np.argsort(-score_NE, kind="stable")[:, :3] // 3
    local_rank_N = np.repeat(np.arange(ranks), counts)
    tokens = zip(rank_NA.tolist(), local_rank_N, layer.position_N, strict=True)
    least = sum(
        len(set(chosen) - {local_rank}) for chosen, local_rank, position in tokens if position >= 0
    )
    outputs = on_ranks(layer, counts)
    dispatched, combined = zip(*(output.sent for output in outputs), strict=True)
    assert sum(rows for rows, _ in dispatched) == sum(rows for rows, _ in combined) == least
    width = layer.x_ND.shape[1] * 4
    assert {nbytes for _, nbytes in dispatched} == {width + 3 * 4 + 3 * 4}  # routing weights, ids
    assert {nbytes for _, nbytes in combined} == {width}


def test_messages_keep_every_bit():
    layer = random_layer(N=6, E=6, dtype=ml_dtypes.bfloat16)
    group, calls = ThreadGroup(2), []

    def on_rank(rank: int) -> None:
        x_ND = layer.x_ND[3 * rank : 3 * rank + 3]
        weight_NA = np.array([[0.1, 1e-38], [np.pi, 3], [0, 1]], np.float32)
        expert_NA = np.full((3, 2), [1 - rank, 2], np.int32)  # the other rank, and padding

        def expert_fn(x, weight, expert):
            calls.append((rank, x, weight, expert))
            return x.astype(np.float32)

        y_ND, _ = RaggedAllToAllDispatcher()(
            x_ND, weight_NA, expert_NA, expert_fn, group=group, num_experts=2
        )
        np.testing.assert_array_equal(y_ND, x_ND.astype(np.float32))

    group.run(on_rank)
    for rank, x, weight, expert in calls:
        np.testing.assert_array_equal(x, layer.x_ND[3 - 3 * rank : 6 - 3 * rank])
        assert (x.dtype, weight.dtype, expert.dtype) == (ml_dtypes.bfloat16, np.float32, np.int32)
        assert weight.tolist() == np.array([[0.1, 1e-38], [np.pi, 3], [0, 1]], np.float32).tolist()
        assert expert.tolist() == [[rank, 2]] * 3


def test_few_tokens_are_shown_to_all_and_many_are_sent():
    for tokens, dispatcher in (
        (1, PaddedAllGatherDispatcher(9)),
        (EAGER_ALL_GATHER_TOKENS, PaddedAllGatherDispatcher(9)),
        (33, RaggedAllToAllDispatcher()),
    ):
        shape = MoEStepShape(tokens, local_tokens=9, ranks=2, num_experts=8, experts_per_token=2)
        assert eager_dispatchers(None, shape) == (dispatcher,)
