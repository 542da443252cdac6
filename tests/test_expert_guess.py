"""The benchmark of guessed experts: a router on its own stream is right, and shares are counted."""

import numpy as np
import pytest

from benchmarks.expert_guess import STREAMS, guess, shares
from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.checkpoint.params import MoEWeights
from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from tests.support.shipped import FOLDER

CONFIG = MiMoConfig.from_pretrained(FOLDER)
A = CONFIG.num_experts_per_tok


@pytest.fixture(scope="module")
def traced():
    weights = load_weights(FOLDER, CONFIG)
    token_T = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 24)
    return weights, trace_prompt(weights, CONFIG, token_T)


def test_a_router_on_its_own_stream_is_right(traced):
    weights, trace = traced
    for index, layer in enumerate(weights.layers):
        if isinstance(layer.feed_forward, MoEWeights):
            name = f"layers.{index}"
            x_TD = trace[f"{name}.output"] - trace[f"{name}.feed_forward.output"]
            chosen_TA = trace[f"{name}.feed_forward.expert"]
            guessed_TA = guess(x_TD, layer, CONFIG, A)
            same = [set(a) == set(b) for a, b in zip(chosen_TA, guessed_TA, strict=True)]
            assert np.mean(same) > 0.9  # the subtraction rounds: a near tie may differ


def test_shares_are_counted_choice_by_choice(traced):
    weights, trace = traced
    for (stream, layer, number), share in shares(trace, weights, CONFIG):
        x_TD = trace[f"layers.{layer - 1}.output"]
        if stream == STREAMS[0]:
            x_TD = x_TD - trace[f"layers.{layer - 1}.feed_forward.output"]
        guesses = guess(x_TD, weights.layers[layer], CONFIG, number).tolist()
        choices = trace[f"layers.{layer}.feed_forward.expert"].tolist()
        right = [e in g for g, c in zip(guesses, choices, strict=True) for e in c]
        assert share == pytest.approx(sum(right) / len(right))


def test_more_guesses_are_right_more_often(traced):
    weights, trace = traced
    by_number = {}
    for (stream, layer, number), share in shares(trace, weights, CONFIG):
        by_number.setdefault((stream, layer), []).append((number, share))
    for pairs in by_number.values():
        assert [share for _, share in sorted(pairs)] == sorted(share for _, share in pairs)
