"""Tests of moe_block: on any number of ranks, with either dispatcher, against its reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher, moe_block
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.reference import moe_block as oracle
from tests.support import transformers_experts as transformers
from tests.support.agreement import assert_agrees
from tests.support.drawn import floats, seeds
from tests.support.kinds import host_kinds
from tests.support.mistakes import mistakes
from tests.support.ranks import GROUPS, SOLO, on_ranks
from tests.support.routed import random_layer, summed

DISPATCHERS = {
    "all_gather": lambda _: AllGatherDispatcher(),
    "all_to_all": lambda tokens: AllToAllDispatcher(send_capacity=tokens, capacity=tokens),
}
every_dispatcher = pytest.mark.parametrize("dispatcher", DISPATCHERS.values(), ids=DISPATCHERS)
every_group = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
CHOICE = {"experts_per_token": 3, "scaling": 2.5}
GOOD = {
    "x_ND": np.ones((2, 4), np.float32),
    "position_N": np.zeros(2, np.int32),
    "w_router_ED": np.ones((3, 4), np.float32),
    "bias_E": np.zeros(3, np.float32),
    "rank_1": np.zeros(1, np.int32),
}
STATICS = CHOICE | {"group": SOLO, "dispatcher": AllToAllDispatcher(2, 2)}


def zero_experts(x_ND, weight_NA, expert_NA):
    return np.zeros(x_ND.shape, np.float32)


def assert_is_oracle(layer, output) -> None:
    """Assert that `output` is the reference's for every token and that nothing overflowed."""
    y_ND, overflow_P = output
    assert (y_ND.dtype, overflow_P.dtype) == (np.float32, np.float32)
    assert not overflow_P.any()
    expected_ND = oracle.moe_block(*layer, **CHOICE)
    scale = CHOICE["scaling"] * summed(layer.x_ND, *layer[4:])
    assert_agrees(y_ND.astype(layer.x_ND.dtype), expected_ND, scale=scale)
    assert not y_ND[layer.position_N < 0].any()


@st.composite
def layers_of(draw, P: int):
    """Draw a layer for P ranks: 1 to 4 tokens and 1 to 3 experts on each, at least 3 in all."""
    N, padding = draw(st.integers(1, 4)), draw(st.sampled_from([0.0, 0.3]))
    experts_per_rank = draw(st.integers(-(-3 // P), 3))
    sizes = {"N": N * P, "E": experts_per_rank * P, "F": 2}
    return random_layer(draw(seeds), **sizes, dtype=draw(floats), padding=padding)


@host_kinds
@every_dispatcher
@every_group
@settings(max_examples=8)
@given(st.data())
def test_any_number_of_ranks_is_its_oracle(on, dispatcher, group, data):
    layer = data.draw(layers_of(group.size))
    kwargs = {"dispatcher": dispatcher(len(layer.x_ND)), **CHOICE}
    assert_is_oracle(layer, on_ranks(layer, group, capacity_experts, on=on, **kwargs))


@every_group
@settings(max_examples=8)
@given(st.data())
def test_grouped_on_the_host_it_is_its_oracle(group, data):
    layer = data.draw(layers_of(group.size))
    kwargs = {"dispatcher": AllGatherDispatcher(), **CHOICE}
    assert_is_oracle(layer, on_ranks(layer, group, grouped_experts, **kwargs))


@every_dispatcher
@pytest.mark.parametrize("group", [SOLO, ThreadGroup(4)], ids=["solo", "threads"])
def test_it_is_transformers(dispatcher, group):
    torch = pytest.importorskip("torch")
    layer = random_layer(N=12, E=16, F=5)
    layer = layer._replace(bias_E=layer.bias_E + np.arange(16, dtype=np.float32) / 100)  # no ties
    choice = {"experts_per_token": 4, "scaling": 2.5}
    with torch.no_grad():
        expected_ND = transformers.mixture(layer, **choice)(torch.tensor(layer.x_ND)).numpy()
    y_ND, _ = on_ranks(layer, group, capacity_experts, dispatcher=dispatcher(12), **choice)
    assert_agrees(y_ND, expected_ND, scale=2.5 * summed(layer.x_ND, *layer[4:]))


@host_kinds
@every_dispatcher
def test_everyone_may_choose_the_same_rank(on, dispatcher):
    layer = random_layer(N=12, E=12)
    layer.bias_E[3:6] += 5  # the second of four ranks
    kwargs = {"dispatcher": dispatcher(12), **CHOICE}
    assert_is_oracle(layer, on_ranks(layer, ThreadGroup(4), capacity_experts, on=on, **kwargs))


@host_kinds
@pytest.mark.parametrize("send_capacity", [1, 2, 3, 4])
def test_messages_that_do_not_fit_are_counted_and_every_rank_knows(on, send_capacity):
    layer = random_layer(N=12, E=12)
    layer.bias_E[3:6] += 5
    layer.position_N[6:9] = -1  # the third rank sends nothing
    kwargs = {"dispatcher": AllToAllDispatcher(send_capacity, capacity=12), **CHOICE}
    y_ND, overflow_P = on_ranks(layer, ThreadGroup(4), capacity_experts, on=on, **kwargs)
    assert overflow_P.tolist() == [3 * max(0, 3 - send_capacity)] * 4
    expected_ND = oracle.moe_block(*layer, **CHOICE)
    expected_ND.reshape(4, 3, -1)[:, send_capacity:] = 0
    assert_agrees(y_ND, expected_ND, scale=2.5 * summed(layer.x_ND, *layer[4:]))


@host_kinds
@pytest.mark.parametrize("capacity", [1, 3, 5, 9])
def test_tokens_without_a_seat_are_counted_and_the_others_answered(on, capacity):
    layer = random_layer(N=12, E=12)
    layer.bias_E[3:6] += 5  # everyone chooses these three
    layer.position_N[6:9] = -1
    kwargs = {"dispatcher": AllToAllDispatcher(send_capacity=3, capacity=capacity), **CHOICE}
    y_ND, overflow_P = on_ranks(layer, ThreadGroup(4), capacity_experts, on=on, **kwargs)
    assert overflow_P.tolist() == [3 * max(0, 9 - capacity)] * 4
    expected_ND = oracle.moe_block(*layer, **CHOICE)
    expected_ND[np.flatnonzero(layer.position_N >= 0)[capacity:]] = 0
    assert_agrees(y_ND, expected_ND, scale=2.5 * summed(layer.x_ND, *layer[4:]))


@host_kinds
@every_dispatcher
@pytest.mark.parametrize("idle", [slice(0, 3), slice(3, 6), slice(None)])
def test_a_rank_of_padding_alone_still_answers_the_others(on, dispatcher, idle):
    layer = random_layer(N=6, E=6)
    layer.position_N[idle] = -1
    kwargs = {"dispatcher": dispatcher(3), **CHOICE}
    assert_is_oracle(layer, on_ranks(layer, ThreadGroup(2), capacity_experts, on=on, **kwargs))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": ThreadGroup(2)}, "3 experts on 2 ranks"),
        ({"dispatcher": AllToAllDispatcher(0, 2)}, "send_capacity 0"),
        ({"experts_per_token": 4}, "experts_per_token 4"),
    ],
)
def test_a_mistaken_static_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        moe_block(**GOOD, expert_fn=zero_experts, **(STATICS | wrong))


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"moe_block: .*\b{name}\b"):
        moe_block(**(GOOD | {name: wrong}), expert_fn=zero_experts, **STATICS)
