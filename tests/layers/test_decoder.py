"""Decoder layer against transformers', and `DecoderLayer.build`."""

from dataclasses import replace

import ml_dtypes
import numpy as np
from hypothesis import given, settings

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.feed_forward import Dense, MixtureOfExperts
from mimo_v2_flash.parallel import SoloGroup
from tests.support.agreement import assert_agrees
from tests.support.batches import metadata_of
from tests.support.drawn import seeds
from tests.support.oracle import decided, layer_io
from tests.support.ranks import FIRST
from tests.support.tiny import Tiny, random_tokens, recipes, tiny

SOLO = SoloGroup()


def decoded(model: Tiny, index: int, x_TD) -> np.ndarray:
    """Return the output of layer `index` for a prompt."""
    T, spec = len(x_TD), model.config.layers[index]
    cache = new_cache((spec,), batch_size=1, max_length=T)
    metadata = metadata_of(spec.attention, [0], [T], cache)
    layer, weights = DecoderLayer.build(spec, SOLO, SOLO), model.weights.layers[index]
    dispatcher = AllGatherDispatcher()
    return layer(x_TD, metadata, FIRST, cache.layers[0], weights, dispatcher=dispatcher)


@settings(max_examples=15)
@given(recipes(), seeds)
def test_every_layer_is_transformers(recipe, seed):
    model = tiny(recipe)
    token_T = random_tokens(model, 20, seed=seed)
    decided(model, token_T)
    expected = layer_io(model, token_T)
    for index in range(len(recipe.layers)):
        (x_TD,), (expected_TD,) = expected[str(index)]
        y_TD = decoded(model, index, x_TD)
        assert_agrees(y_TD, expected_TD, scale=5 * np.max(np.abs(expected_TD)))


def test_it_keeps_the_dtype_of_the_stream():
    model = tiny()
    x_TD = np.ones((9, model.config.hidden_size), ml_dtypes.bfloat16)
    for index in range(len(model.config.layers)):
        y_TD = decoded(model, index, x_TD)
        assert (y_TD.dtype, y_TD.shape) == (x_TD.dtype, x_TD.shape)


def test_a_layer_with_experts_is_a_mixture_and_another_one_is_dense():
    for spec in tiny().config.layers:
        layer = DecoderLayer.build(spec, SOLO, SOLO)
        assert isinstance(
            layer.feed_forward_block.feed_forward, MixtureOfExperts if spec.num_experts else Dense
        )
        assert layer.attention_block.attention.spec == spec.attention


def test_equal_layers_are_one_key():
    dense, sliding, *_ = tiny().config.layers
    specs = dense, sliding, replace(dense)
    assert len({DecoderLayer.build(spec, SOLO, SOLO) for spec in specs}) == 2
