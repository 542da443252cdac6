"""Watched layers compute what unwatched ones do, bit for bit, and tell everything in order."""

from itertools import pairwise

import numpy as np

from mimo_v2_flash.layers.hooks import HookedLayers
from tests.support.tiny import random_tokens, running, tiny

DENSE = ["apply_rope", "attend", "attention", "feed_forward", "layer"]
SPARSE = ["apply_rope", "attend", "attention", "experts", "moe", "feed_forward", "layer"]


def heard(token_BT, **options):
    """Return logits, and every call that was heard."""
    calls = []
    backend = HookedLayers(len(tiny().config.layers), calls.append)
    return running(tiny(), backend=backend, **options).forward(token_BT), calls


def test_watching_changes_nothing():
    token_BT = random_tokens(tiny(), 2, 9)
    logits_BTV, _ = heard(token_BT)
    np.testing.assert_array_equal(logits_BTV, running(tiny()).forward(token_BT))


def test_every_part_of_every_layer_is_heard_in_the_order_of_computing():
    _, calls = heard(random_tokens(tiny(), 1, 9), max_step=5)
    one_step = [
        (index, part)
        for index, spec in enumerate(tiny().config.layers)
        for part in (SPARSE if spec.num_experts else DENSE)
    ]
    assert [(call.layer, call.part) for call in calls] == one_step * 2


def test_what_is_heard_is_what_flows():
    """Each layer is given the very array that the one before it said."""
    _, calls = heard(random_tokens(tiny(), 1, 9))
    layers = [call for call in calls if call.part == "layer"]
    for before, after in pairwise(layers):
        assert after.args[0] is before.output
    for turn, look in pairwise(calls):
        if look.part == "attend":
            assert look.args[0] is turn.output[0]
            assert look.args[1] is turn.output[1]


def test_a_part_can_be_asked_again_and_says_the_same():
    _, calls = heard(random_tokens(tiny(), 1, 9))
    known = len(calls)
    for call in calls:
        if call.part in {"apply_rope", "attend", "experts"}:
            again = call.function(*call.args, **call.kwargs)
            pairs = zip(again, call.output, strict=True)  # queries and keys, or sequences
            assert all(np.array_equal(*pair) for pair in pairs)
    assert len(calls) == known


def test_experts_touched_can_be_counted():
    """The experts that a run chose: what "experts" was given."""
    _, calls = heard(random_tokens(tiny(), 1, 9))
    chosen = {call.layer: call.args[2] for call in calls if call.part == "experts"}
    sparse = [index for index, spec in enumerate(tiny().config.layers) if spec.num_experts]
    assert list(chosen) == sparse
    for index, expert_NA in chosen.items():
        spec = tiny().config.layers[index]
        assert expert_NA.shape == (9, spec.experts_per_token)
        assert expert_NA.min() >= 0
        assert expert_NA.max() < spec.num_experts
