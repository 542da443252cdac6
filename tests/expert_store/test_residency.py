"""Residency: hits, groups and evictions are those of a reference written from the definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.expert_store.eviction_policies import POLICIES, Policy, static_policy
from mimo_v2_flash.expert_store.residency import Residency
from tests.support.residency_oracle import Call, Replayed, replay

EXPERTS, LAYERS = 6, (2, 5, 7)  # of a model whose other layers have no experts
KEYS = [(layer, expert) for layer in range(len(LAYERS)) for expert in range(EXPERTS)]

experts_of_a_call = st.sets(st.integers(0, EXPERTS - 1), min_size=1).map(sorted).map(tuple)
tokens_of_a_call = st.sampled_from([1, 1, 1, 40, 300])
calls = st.lists(
    st.builds(Call, st.integers(0, len(LAYERS) - 1), experts_of_a_call, tokens_of_a_call),
    max_size=25,
)
sizes = st.one_of(
    st.just(np.full((len(LAYERS), EXPERTS), 4)),
    st.lists(st.integers(1, 9), min_size=len(KEYS), max_size=len(KEYS)).map(
        lambda each: np.array(each).reshape(len(LAYERS), EXPERTS)
    ),
)


def policy(name: str, kept: set[tuple[int, int]]) -> Policy:
    if name == "static":
        return static_policy({(LAYERS[layer], expert) for layer, expert in kept})
    return Policy(name, POLICIES[name])


def run(residency: Residency, calls: list[Call]) -> Replayed:
    groups, evicted = [], []
    for layer, experts, tokens in calls:
        residency.begin_call(layer, experts, tokens)
        rest = list(experts)
        while rest:
            group = residency.take_group(layer, rest)
            assert group.experts == rest[: len(group.experts)] != []
            assert residency.held_bytes <= residency.budget
            residency.release(layer, group)
            groups.append(tuple(group.experts))
            evicted += [divmod(key, EXPERTS) for key in group.evicted]
            rest = rest[len(group.experts) :]
    counts = residency.hits, residency.misses, residency.cold_misses
    return Replayed(*counts, groups, evicted)


@settings(max_examples=150, deadline=None)
@given(calls, sizes, st.integers(0, 60), st.sampled_from([*POLICIES, "static"]), st.data())
def test_it_is_the_reference(calls, sizes, room, name, data):
    kept = data.draw(st.sets(st.sampled_from(KEYS))) if name == "static" else set()
    budget = int(sizes.max()) + room
    residency = Residency(sizes, budget, policy(name, kept), LAYERS)
    assert run(residency, calls) == replay(calls, sizes.tolist(), budget, name, kept)
    assert residency.peak_bytes <= budget
    assert residency.evictions * sizes.min() <= residency.misses * sizes.max()


@given(calls, sizes, st.sampled_from(list(POLICIES)))
def test_where_all_fits_each_expert_is_read_once(calls, sizes, name):
    residency = Residency(sizes, int(sizes.sum()), policy(name, set()), LAYERS)
    result = run(residency, calls)
    used = {(call.layer, expert) for call in calls for expert in call.experts}
    assert (result.misses, result.cold_misses, result.evicted) == (len(used), len(used), [])
    assert result.groups == [call.experts for call in calls]


@given(calls, sizes, st.integers(0, 60), st.sampled_from(list(POLICIES)))
def test_a_call_reads_an_expert_once(calls, sizes, room, name):
    residency = Residency(sizes, int(sizes.max()) + room, policy(name, set()), LAYERS)
    for call in calls:
        before = residency.misses
        run(residency, [call])
        assert residency.misses - before <= len(call.experts)


@pytest.mark.parametrize("name", POLICIES)
def test_a_pinned_expert_stays_and_others_wait(name):
    residency = Residency(np.full((1, 4), 1), 2, policy(name, set()), (0,))
    residency.begin_call(0, [0, 1], 1)
    first = residency.take_group(0, [0, 1])
    residency.begin_call(0, [2], 1)
    assert residency.take_group(0, [2]).experts == []
    residency.release(0, first)
    assert residency.take_group(0, [2]) == ([2], [2], [0])


def test_what_could_not_be_read_is_not_held():
    residency = Residency(np.full((1, 2), 3), 3, policy("lru", set()), (0,))
    for _ in range(2):
        residency.begin_call(0, [1], 1)
        group = residency.take_group(0, [1])
        assert group.missing == [1]
        residency.drop(0, 1)
        residency.release(0, group)
        assert residency.held_bytes == 0


def test_a_use_is_of_a_layer_and_an_expert():
    """Expert 0 of one layer is not that of another: each has its own uses."""
    residency = Residency(np.full((2, 3), 1), 2, policy("lfu", set()), (0, 1))
    run(residency, [Call(0, (0,)), Call(0, (0,)), Call(1, (0,)), Call(1, (1,))])
    assert np.flatnonzero(residency._is_held_K).tolist() == [0, 4]
