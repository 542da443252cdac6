"""Ablations: without any one feature of the architecture, logits differ from transformers'.

They show that the equality tests would notice the loss of each feature.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mimo_v2_flash import MiMoV2FlashModel
from mimo_v2_flash.checkpoint.params import MoEWeights
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.layers.eager_mode import EagerMode
from tests.support.oracle import assert_same_logits, oracle_output
from tests.support.tiny import Tiny, random_tokens, running, tiny

LENGTH = 20  # four windows
VISIBLE = 0.02  # of the range of logits; equality allows 1e-4


def with_config(**fields: Any) -> Callable[[Tiny], Tiny]:
    return lambda model: model._replace(config=replace(model.config, **fields))


def with_layers(change: Callable[[Any], Any]) -> Callable[[Tiny], Tiny]:
    """Return a function that applies `change` to the weights of every layer."""

    def changed(model: Tiny) -> Tiny:
        layers = tuple(map(change, model.weights.layers))
        return model._replace(weights=model.weights._replace(layers=layers))

    return changed


def without_sink(layer):
    sink_H = np.full_like(layer.attention.sink_H, NO_SINK)
    return layer._replace(attention=layer.attention._replace(sink_H=sink_H))


def without_bias(layer):
    mixture = layer.feed_forward
    if not isinstance(mixture, MoEWeights):
        return layer
    return layer._replace(feed_forward=mixture._replace(bias_E=np.zeros_like(mixture.bias_E)))


def swapped_thetas(model: Tiny) -> Tiny:
    config = model.config
    thetas = {"rope_theta": config.swa_rope_theta, "swa_rope_theta": config.rope_theta}
    return with_config(**thetas)(model)


def without_norm(name: str):
    return lambda layer: layer._replace(**{name: np.ones_like(getattr(layer, name))})


FEATURES = {
    "the sink": with_layers(without_sink),
    "the selection bias": with_layers(without_bias),
    "the value scale": with_config(attention_value_scale=1.0),
    "the routed scaling factor": with_config(routed_scaling_factor=1.0),
    "the number of experts": with_config(num_experts_per_tok=2),
    "partial rotation": with_config(partial_rotary_factor=10 / 11),
    "the theta of full layers": with_config(rope_theta=100.0),
    "the theta of sliding layers": with_config(swa_rope_theta=5e6),
    "which theta is whose": swapped_thetas,
    "the window's last key": with_config(sliding_window=4),
    "the window's end": with_config(sliding_window=6),
    "the window": with_config(sliding_window=LENGTH),
    "the epsilon of norms": with_config(layernorm_epsilon=0.1),
    "the norm before attention": with_layers(without_norm("attention_norm_D")),
    "the norm before the feed-forward": with_layers(without_norm("feed_forward_norm_D")),
}


def assert_visible(model: MiMoV2FlashModel) -> None:
    """Assert that logits are not transformers', and that `assert_same_logits` notices it."""
    token_T = random_tokens(tiny(), LENGTH)
    expected_TV = oracle_output(tiny(), token_T).logits_TV
    actual_TV = model.forward([token_T])[0]
    assert np.max(np.abs(actual_TV - expected_TV)) > VISIBLE * np.ptp(expected_TV)
    with pytest.raises(AssertionError):
        assert_same_logits(actual_TV, expected_TV)


def test_with_every_feature_the_logits_are_those_of_transformers():
    token_T = random_tokens(tiny(), LENGTH)
    assert_same_logits(
        running(tiny()).forward([token_T])[0], oracle_output(tiny(), token_T).logits_TV
    )


@pytest.mark.parametrize("without", FEATURES.values(), ids=FEATURES.keys())
def test_without_it_the_logits_differ(without):
    assert_visible(running(without(tiny())))


def test_without_the_normalisation_of_weights_the_logits_differ(monkeypatch):
    monkeypatch.setattr(EagerMode, "router", staticmethod(unnormalised_router))
    assert_visible(running(tiny()))


def unnormalised_router(x_ND, w_router_ED, bias_E, *, experts_per_token, scaling):
    score_NE = ops.sigmoid(ops.matmul(x_ND, w_router_ED))
    _, expert_NA = ops.top_k(score_NE + bias_E, experts_per_token)
    return np.take_along_axis(score_NE, expert_NA, axis=1) * np.float32(scaling), expert_NA
