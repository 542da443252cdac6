"""Tests of moe_dispatch: a token is sent once to each of its ranks, and its outputs are summed."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_dispatch import DispatchBuffers, combine, dispatch
from mimo_v2_flash.reference import moe_dispatch as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import floats, seeds, tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes
from tests.support.routed import random_choices

TOKENS = {
    "x_ND": np.ones((3, 4), np.float32),
    "weight_NA": np.ones((3, 2), np.float32),
    "expert_NA": np.zeros((3, 2), np.int32),
}
SIZES = {"ranks": 2, "num_experts": 4, "send_capacity": 3}
OUTPUTS = {
    "output_PMD": np.ones((2, 3, 4), np.float32),
    "buffer_row_NA": np.zeros((5, 2), np.int32),
}


class Step(NamedTuple):
    """The tokens of a step with their expert choices, and the number of ranks and experts."""

    x_ND: Any
    weight_NA: Any
    expert_NA: Any
    ranks: int
    experts: int

    def dispatched(self, send_capacity: int, by=dispatch):
        """Return the output of `by`, the kernel or its reference, for this step."""
        return by(
            *self[:3], ranks=self.ranks, num_experts=self.experts, send_capacity=send_capacity
        )


def random_step(
    seed=0, *, N=9, A=2, P=4, experts_per_rank=2, padding=0.0, dtype=np.float32
) -> Step:
    """Return N tokens with A expert choices each, some of them padding."""
    generator, E = np.random.default_rng(seed), P * experts_per_rank
    weight_NA, expert_NA = random_choices(generator, N=N, A=A, E=E)
    expert_NA[generator.random(N) < padding] = E
    return Step(generator.standard_normal((N, 4)).astype(dtype), weight_NA, expert_NA, P, E)


@st.composite
def steps(draw) -> Step:
    P, experts_per_rank = draw(st.sampled_from([1, 2, 3, 8])), draw(st.integers(1, 4))
    return random_step(
        draw(seeds),
        N=draw(st.integers(1, 12)),
        A=draw(st.integers(1, min(5, P * experts_per_rank))),
        P=P,
        experts_per_rank=experts_per_rank,
        padding=draw(st.sampled_from([0.0, 0.4, 1.0])),
        dtype=draw(floats),
    )


def occupied(buffers: DispatchBuffers, step: Step) -> np.ndarray:
    """Return a mask of the slots that hold a message, [P, M]."""
    return (buffers.expert_PMA < step.experts).any(axis=2)


def identity_outputs(buffers: DispatchBuffers, step: Step) -> np.ndarray:
    """Return `output_PMD` of identity experts, with NaN in empty slots."""
    experts_per_rank = step.experts // step.ranks
    local_PMA = buffers.expert_PMA // experts_per_rank == np.arange(step.ranks)[:, None, None]
    weight_PM1 = np.sum(buffers.weight_PMA * local_PMA, axis=2, keepdims=True)
    output_PMD = buffers.x_PMD.astype(np.float32) * weight_PM1
    output_PMD[~occupied(buffers, step)] = np.nan
    return output_PMD


@every_kind
@given(steps(), st.integers(1, 12))
def test_what_arrives_is_what_the_oracle_sends(on, step, send_capacity):
    buffers = DispatchBuffers(*step.dispatched(send_capacity, by=on(dispatch)))
    messages, overflow = step.dispatched(send_capacity, by=oracle.dispatch)
    assert buffers.x_PMD.dtype == step.x_ND.dtype
    assert buffers.overflow_1.tolist() == [overflow]
    for rank, queue in enumerate(messages):
        assert np.sum(occupied(buffers, step)[rank]) == len(queue)
        for slot, message in enumerate(queue):
            np.testing.assert_array_equal(buffers.x_PMD[rank, slot], message.x_D)
            assert buffers.weight_PMA[rank, slot].tolist() == message.weight_A
            assert buffers.expert_PMA[rank, slot].tolist() == message.expert_A


@every_kind
@given(tensors("output_PMD"), st.integers(1, 4), seeds)
def test_what_comes_back_is_what_the_oracle_adds_up(on, drawn, A, seed):
    (output_PMD,) = drawn
    P, M, _ = output_PMD.shape
    buffer_row_NA = np.random.default_rng(seed).integers(0, P * M + 1, (5, A), np.int32)
    y_ND = on(combine)(output_PMD, buffer_row_NA)
    assert y_ND.dtype == np.float32
    scale = A * float(np.max(np.abs(output_PMD)))
    assert_agrees(y_ND, oracle.combine(output_PMD, buffer_row_NA), scale=scale)


@every_kind
@given(steps())
def test_experts_that_give_tokens_back_give_the_step_back(on, step):
    buffers = DispatchBuffers(*step.dispatched(len(step.x_ND), by=on(dispatch)))
    y_ND = on(combine)(identity_outputs(buffers, step), buffers.buffer_row_NA)
    padding_N1 = np.min(step.expert_NA, axis=1, keepdims=True) == step.experts
    assert_agrees(y_ND, np.where(padding_N1, 0, step.x_ND.astype(np.float32)), scale=4)


@every_kind
def test_a_token_that_chose_two_experts_of_a_rank_travels_there_once(on):
    expert_NA = np.array([[0, 1, 5], [6, 4, 7], [8, 8, 8]], np.int32)  # 4 experts a rank, padding
    x_ND, weight_NA = np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32)
    buffers = DispatchBuffers(
        *on(dispatch)(x_ND, weight_NA, expert_NA, ranks=2, num_experts=8, send_capacity=3)
    )
    none = [8, 8, 8]
    assert buffers.expert_PMA.tolist() == [[[0, 1, 5], none, none], [[0, 1, 5], [6, 4, 7], none]]
    assert buffers.buffer_row_NA.tolist() == [[0, 6, 3], [4, 6, 6], [6, 6, 6]]
    assert buffers.overflow_1.tolist() == [0]


@given(steps())
def test_there_are_as_many_messages_as_tokens_times_ranks(step):
    buffers = step.dispatched(len(step.x_ND))
    rank_NA = step.expert_NA // (step.experts // step.ranks)
    destinations = sum(len({*chosen} - {step.ranks}) for chosen in rank_NA.tolist())
    assert np.sum(occupied(buffers, step)) == destinations
    assert np.sum(buffers.buffer_row_NA < step.ranks * len(step.x_ND)) == destinations


@every_kind
@given(steps(), st.integers(1, 4))
def test_what_fits_is_right_though_more_was_sent(on, step, send_capacity):
    buffers = DispatchBuffers(*step.dispatched(send_capacity, by=on(dispatch)))
    messages, _ = step.dispatched(send_capacity, by=oracle.dispatch)
    experts_per_rank = step.experts // step.ranks
    expected_ND = np.zeros(step.x_ND.shape)
    for rank, queue in enumerate(messages):
        for token, x_D, weights, experts in queue:
            choices = zip(weights, experts, strict=True)
            weight = sum(w for w, e in choices if e // experts_per_rank == rank)
            expected_ND[token] += weight * x_D
    y_ND = on(combine)(identity_outputs(buffers, step), buffers.buffer_row_NA)
    assert_agrees(y_ND, expected_ND, scale=4)


@every_kind
@pytest.mark.parametrize("N", [1, 2, 3, 31, 32, 33, 257])
def test_a_rank_that_everyone_chose_hears_everyone_in_order(on, N):
    step = random_step(N=N, A=1)._replace(expert_NA=np.full((N, 1), 5, np.int32))
    buffers = DispatchBuffers(*step.dispatched(N, by=on(dispatch)))
    np.testing.assert_array_equal(buffers.x_PMD[2], step.x_ND)
    assert np.sum(occupied(buffers, step)) == N
    for send_capacity in {1, N}:
        assert step.dispatched(send_capacity).overflow_1.tolist() == [N - send_capacity]


@every_kind
def test_a_step_of_any_number_of_tokens_traces(on):
    # A constant of one int32 for each choice would be larger than a program may hold.
    step = random_step(N=2100, A=8, P=4, experts_per_rank=4)
    buffers, expected = (step.dispatched(600, by=by) for by in (on(dispatch), dispatch))
    for actual, part in zip(buffers, expected, strict=True):
        np.testing.assert_array_equal(actual, part)


def test_a_negative_expert_is_nobodys():
    buffers = dispatch(**(TOKENS | {"expert_NA": np.full((3, 2), -1, np.int32)}), **SIZES)
    assert (buffers.buffer_row_NA == 6).all()
    assert (buffers.expert_PMA == 4).all()


@pytest.mark.parametrize(
    "wrong",
    [{"num_experts": 5}, {"send_capacity": 0}, {"send_capacity": -1}, {"ranks": 0}, {"ranks": -2}],
)
def test_experts_that_do_not_divide_and_missing_slots_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"dispatch: -?\d experts on -?\d ranks with send_capacity -?\d"
    ):
        dispatch(**TOKENS, **(SIZES | wrong))


@pytest.mark.parametrize(("name", "wrong"), mistakes(**TOKENS))
def test_a_mistaken_argument_of_dispatch_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"dispatch: .*\b{name}\b"):
        dispatch(**(TOKENS | {name: wrong}), **SIZES)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("output_PMD", OUTPUTS["output_PMD"][0]),
        ("output_PMD", OUTPUTS["output_PMD"].astype(np.float64)),
        ("buffer_row_NA", OUTPUTS["buffer_row_NA"].astype(np.int64)),
        ("buffer_row_NA", [[0, 0]]),
    ],
)
def test_a_mistaken_argument_of_combine_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"combine: .*\b{name}\b"):
        combine(**(OUTPUTS | {name: wrong}))
