"""Forward hooks: hooked layers compute the same, bit for bit, and hooks are called in order."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from mimo_v2_flash.layers.hooks import HookedLayers
from tests.support.tiny import random_tokens, running, tiny

DENSE = ["apply_rope", "attend", "attention", "feed_forward", "layer"]
SPARSE = ["apply_rope", "attend", "attention", "experts", "moe", "feed_forward", "layer"]


def run_hooked(token_BT, **options):
    """Return the logits, and every `HookCall` in order."""
    calls = []
    backend = HookedLayers(calls.append)
    return running(tiny(), backend=backend, **options).forward(token_BT), calls


def test_watching_changes_nothing():
    token_BT = random_tokens(tiny(), 2, 9)
    logits_BTV, _ = run_hooked(token_BT)
    np.testing.assert_array_equal(logits_BTV, running(tiny()).forward(token_BT))


def test_every_part_of_every_layer_is_heard_in_the_order_of_computing():
    _, calls = run_hooked(random_tokens(tiny(), 1, 9), max_step=5)
    one_step = [
        (index, part)
        for index, spec in enumerate(tiny().config.layers)
        for part in (SPARSE if spec.num_experts else DENSE)
    ]
    assert [(call.layer, call.part) for call in calls] == one_step * 2


def test_what_is_heard_is_what_flows():
    """Each layer's input is the very array that the layer before it returned."""
    _, calls = run_hooked(random_tokens(tiny(), 1, 9))
    layers = [call for call in calls if call.part == "layer"]
    for before, after in pairwise(layers):
        assert after.args[0] is before.output
    for apply_rope, attend in pairwise(calls):
        if attend.part == "attend":
            assert np.shares_memory(attend.args[0], apply_rope.output[0])
            np.testing.assert_array_equal(
                attend.args[1].k_BSKQ[0], apply_rope.output[1]
            )  # as cached


def test_layers_are_counted_from_the_first_after_a_step_that_failed():
    calls = []

    def hook(call):
        calls.append(call.layer)
        if len(calls) == 9:
            raise RuntimeError("in the middle of a step")

    model = running(tiny(), backend=HookedLayers(hook))
    with pytest.raises(RuntimeError, match="in the middle"):
        model.forward(random_tokens(tiny(), 1, 3))
    assert calls[-1] == 1
    model.forward(random_tokens(tiny(), 1, 3))
    assert calls[9] == 0
    assert calls[-1] == len(tiny().config.layers) - 1


def test_a_part_can_be_asked_again_and_says_the_same():
    _, calls = run_hooked(random_tokens(tiny(), 1, 9))
    count = len(calls)
    for call in calls:
        if call.part in {"apply_rope", "attend", "experts"}:
            again = call.function(*call.args, **call.kwargs)
            pairs = zip(again, call.output, strict=True)  # queries and keys, or sequences
            assert all(np.array_equal(*pair) for pair in pairs)
    assert len(calls) == count


def test_threads_that_share_a_model_count_layers_for_themselves():
    """One thread is between two layers while the other runs a whole pass."""
    calls, token_BT = {"first": [], "second": []}, random_tokens(tiny(), 1, 3)

    def hook(call):
        name = "second" if threading.current_thread() is second else "first"
        calls[name].append((call.layer, call.part))
        if calls["first"] == [(0, "apply_rope")] and name == "first":
            second.start()
            second.join()

    model = running(tiny(), backend=HookedLayers(hook))
    second = threading.Thread(target=model.forward, args=(token_BT,))
    model.forward(token_BT)
    assert calls["first"] == calls["second"]
    assert calls["first"][-1][0] == len(tiny().config.layers) - 1


def test_experts_touched_can_be_counted():
    """The arguments of "experts" hold the ids of the experts that a run chose."""
    _, calls = run_hooked(random_tokens(tiny(), 1, 9))
    chosen = {call.layer: call.args[2] for call in calls if call.part == "experts"}
    sparse = [index for index, spec in enumerate(tiny().config.layers) if spec.num_experts]
    assert list(chosen) == sparse
    for index, expert_NA in chosen.items():
        spec = tiny().config.layers[index]
        assert expert_NA.shape == (9, spec.experts_per_token)
        assert expert_NA.min() >= 0
        assert expert_NA.max() < spec.num_experts
