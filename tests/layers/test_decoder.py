"""Decoder layer against transformers', and `DecoderLayer.build`."""

from dataclasses import replace

import ml_dtypes
import numpy as np
from hypothesis import given, settings

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kv_cache import new_cache, slot_mapping
from mimo_v2_flash.layers.attention import AttentionMetadata
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.feed_forward import Dense, MixtureOfExperts
from mimo_v2_flash.parallel import SoloGroup
from tests.support.agreement import assert_agrees
from tests.support.drawn import seeds
from tests.support.oracle import decided, layer_io
from tests.support.ranks import FIRST
from tests.support.tiny import Tiny, random_tokens, recipes, tiny

SOLO = SoloGroup()


def decoded(model: Tiny, index: int, x_BTD) -> np.ndarray:
    """Return the output of layer `index` for a prompt."""
    (B, T, _), spec = x_BTD.shape, model.config.layers[index]
    cache = new_cache((spec,), batch_size=B, max_length=T)
    position_BT = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    attention = spec.attention
    table = rope_table(length=T, rotary_dim=attention.rotary_dim, theta=attention.rope_theta)
    step = AttentionMetadata(position_BT, slot_mapping(position_BT, cache.slots[0]), *table)
    layer = DecoderLayer.build(spec, SOLO, SOLO)
    options = {"kv_length": 0, "dispatcher": AllGatherDispatcher(), "local_tokens": B * T}
    return layer(x_BTD, step, FIRST, cache.layers[0], model.weights.layers[index], **options)


@settings(max_examples=15)
@given(recipes(), seeds)
def test_every_layer_is_transformers(recipe, seed):
    model = tiny(recipe)
    token_T = random_tokens(model, 20, seed=seed)
    decided(model, token_T)
    expected = layer_io(model, token_T)
    for index in range(len(recipe.layers)):
        x_BTD, expected_BTD = expected[str(index)]
        y_BTD = decoded(model, index, x_BTD)
        assert_agrees(y_BTD, expected_BTD, scale=5 * np.max(np.abs(expected_BTD)))


def test_it_keeps_the_dtype_of_the_stream():
    model = tiny()
    x_BTD = np.ones((1, 9, model.config.hidden_size), ml_dtypes.bfloat16)
    for index in range(len(model.config.layers)):
        y_BTD = decoded(model, index, x_BTD)
        assert (y_BTD.dtype, y_BTD.shape) == (x_BTD.dtype, x_BTD.shape)


def test_a_layer_with_experts_is_a_mixture_and_another_one_is_dense():
    for spec in tiny().config.layers:
        layer = DecoderLayer.build(spec, SOLO, SOLO)
        assert isinstance(layer.feed_forward, MixtureOfExperts if spec.num_experts else Dense)
        assert layer.attention.spec == spec.attention


def test_equal_layers_are_one_key():
    dense, sliding, *_ = tiny().config.layers
    specs = dense, sliding, replace(dense)
    assert len({DecoderLayer.build(spec, SOLO, SOLO) for spec in specs}) == 2
