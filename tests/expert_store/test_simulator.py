"""Simulator: the counts of the reference in pools of any kind, and those of a live store."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash import load_model
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.expert_store import store_stats
from mimo_v2_flash.expert_store.eviction_policies import POLICIES
from mimo_v2_flash.expert_store.routing_trace import (
    LayerCall,
    RoutingHeader,
    RoutingTrace,
    read_trace,
)
from mimo_v2_flash.expert_store.simulator import (
    POOLS,
    SIMULATED,
    least_capacity,
    most_used,
    simulate,
)
from mimo_v2_flash.layers.routing_recorder import RoutingRecorder
from tests.support.residency_oracle import Call, replay
from tests.support.shipped import FOLDER

EXPERTS, LAYERS = 5, [2, 6]
calls = st.lists(
    st.builds(
        LayerCall,
        st.integers(0, 1),
        st.booleans(),
        st.lists(
            st.lists(st.integers(0, EXPERTS - 1), min_size=2, max_size=2, unique=True),
            min_size=1,
            max_size=3,
        ).map(np.array),
    ),
    min_size=1,
    max_size=25,
)
sizes = st.lists(st.integers(1, 4), min_size=2 * EXPERTS, max_size=2 * EXPERTS)


def trace_of(calls, sizes) -> RoutingTrace:
    rows = np.array(sizes).reshape(2, EXPERTS).tolist()
    return RoutingTrace(RoutingHeader("m", None, None, False, LAYERS, rows), calls)


def reference(trace, policy, capacity, pool, kept=frozenset()):
    """Return (hits, misses, cold misses) of all calls, by the plain reference."""
    made = [Call(c.layer, tuple(c.experts.tolist()), len(c.expert_NA)) for c in trace.calls]
    table = trace.header.expert_bytes
    if pool == "global":
        return replay(made, table, capacity, policy, kept)[:3]
    each = [
        replay([c for c in made if c.layer == layer], table, capacity // 2, policy, kept)[:3]
        for layer in (0, 1)
    ]
    return tuple(map(sum, zip(*each, strict=True)))


@settings(max_examples=80, deadline=None)
@given(calls, sizes, st.integers(0, 30), st.sampled_from([*POLICIES, "static"]), st.booleans())
def test_it_is_the_reference(calls, sizes, room, policy, is_global):
    trace, pool = trace_of(calls, sizes), POOLS[0 if is_global else 1]
    capacity = least_capacity(trace, pool) + room
    kept = set()
    if policy == "static":
        kept = set(most_used(calls[: len(calls) // 2], trace.header.sizes, capacity))
    result = simulate(trace, policy, capacity, pool)
    assert result.total[:3] == reference(trace, policy, capacity, pool, kept)
    assert result.total.tokens == sum(len(call.expert_NA) for call in calls) / 2
    uses = sum(len(call.experts) for call in calls)
    assert result.total.hits + result.total.misses == uses
    decoded = sum(len(call.experts) for call in calls if call.is_decode)
    assert result.decode.hits + result.decode.misses == decoded
    later = sum(len(call.experts) for call in calls[len(calls) // 2 :])
    assert result.second_half.hits + result.second_half.misses == later


@settings(max_examples=100, deadline=None)
@given(calls, st.integers(1, 10), st.sampled_from(list(POLICIES)))
def test_bytes_are_those_of_the_misses(calls, slots, policy):
    result = simulate(trace_of(calls, [3] * 2 * EXPERTS), policy, 3 * slots)
    assert result.total.read_bytes == 3 * result.total.misses


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=40), st.integers(1, EXPERTS))
def test_belady_is_the_best_of_one_expert_at_a_time(uses, slots):
    """By trying every eviction: the fewest misses of any policy."""
    calls = [LayerCall(0, True, np.array([[expert]])) for expert in uses]
    trace = trace_of(calls, [1] * 2 * EXPERTS)
    states = {frozenset(): 0}
    for expert in uses:
        following: dict[frozenset, int] = {}
        for held, misses in states.items():
            options = [held] if expert in held else [held | {expert}]
            if expert not in held and len(held) == slots:
                options = [held - {victim} | {expert} for victim in held]
            for option in options:
                count = misses + (expert not in held)
                following[option] = min(count, following.get(option, count))
        states = following
    result = simulate(trace, "belady", slots)
    assert result.total.misses == min(states.values())
    for policy in POLICIES:
        assert simulate(trace, policy, slots).total.misses >= result.total.misses


def test_a_static_set_is_learnt_from_the_first_half_alone():
    """The second half uses other experts: what was learnt is of no use there."""
    calls = [LayerCall(0, True, np.array([[0, 1]]))] * 10
    calls += [LayerCall(0, True, np.array([[2, 3]]))] * 10
    result = simulate(trace_of(calls, [1] * 2 * EXPERTS), "static", 4)
    assert result.second_half == (18, 2, 2, 5.0, 2)
    calls[10:] = [LayerCall(0, True, np.array([[2, 3], [4, 2]]))] * 10
    misses = {
        name: simulate(trace_of(calls, [1] * 2 * EXPERTS), name, 4).second_half.misses
        for name in ("static", "lru")
    }
    assert misses["static"] > misses["lru"] == 3


def test_the_most_used_experts_leave_room_for_a_token():
    counts = [(0, 1)] * 5 + [(0, 2)] * 3 + [(1, 2)] * 2
    calls = [LayerCall(0, True, np.array([pair])) for pair in counts]
    sizes = np.full((2, EXPERTS), 4)
    assert most_used(calls, sizes, 8 + 4) == [(0, 0)]
    assert most_used(calls, sizes, 8 + 8) == [(0, 0), (0, 1)]
    assert most_used(calls, sizes, 100) == [(0, 0), (0, 1), (0, 2)]
    assert most_used(calls, sizes, 0) == []


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_without_room_for_an_expert_is_refused(pool):
    trace = trace_of([LayerCall(0, True, np.array([[0]]))], [3] * 2 * EXPERTS)
    least = least_capacity(trace, pool)
    assert least == (3 if pool == "global" else 6)
    assert simulate(trace, "lru", least, pool).total.misses == 1
    with pytest.raises(ValueError, match=f"capacity is {least - 1} bytes, expected room"):
        simulate(trace, "lru", least - 1, pool)


@pytest.mark.parametrize(
    ("policy", "records"), [*((policy, 6) for policy in POLICIES), ("lru", 1), ("lfu", 30)]
)
def test_a_live_store_has_the_counts_of_the_simulator(tmp_path, policy, records):
    """Of prompts in chunks, batches, and drafts that two heads make."""
    path = tmp_path / "routing.jsonl"
    size = records * 65536
    backend = RoutingRecorder(NumpyBackend(), path, "mimo-tiny")
    options = {"expert_cache": size, "expert_cache_policy": policy, "max_step": 9}
    model = load_model(FOLDER, backend=backend, **options)
    prompts = [[5, 6, 7, 8] * 5, [9], [3, 1, 4, 1, 5]]
    model.generate(prompts, max_new_tokens=9, draft_tokens=2, seed=3)
    stats, result = store_stats(model), simulate(read_trace(path), policy, size)
    live = stats.hits, stats.misses, stats.cold_misses, stats.read_bytes
    assert live == (*result.total[:3], result.total.read_bytes)
    assert result.decode.misses
    assert result.prefill.misses


@pytest.mark.parametrize("policy", SIMULATED)
def test_a_layer_without_calls_has_a_pool_all_the_same(policy):
    trace = trace_of([LayerCall(1, True, np.array([[0, 1]]))] * 3, [1] * 2 * EXPERTS)
    assert simulate(trace, policy, 4, "per-layer").total[:3] == (4, 2, 2)


def test_every_policy_has_a_name():
    assert {*POLICIES, "static", "belady"} == {*SIMULATED}
