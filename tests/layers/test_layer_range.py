"""A range of layers computes, and writes, bit for bit what its layers do one after the other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.layer_range import LayerRange, split_layers
from mimo_v2_flash.parallel import SoloGroup
from tests.support.batches import metadata_of
from tests.support.drawn import seeds
from tests.support.ranks import FIRST
from tests.support.tiny import recipes, tiny

SOLO, LENGTH = SoloGroup(), 40


@settings(max_examples=15)
@given(recipes(), st.integers(1, 9), seeds)
def test_a_range_is_its_layers_one_after_the_other(recipe, count, seed):
    config, weights = tiny(recipe).config, tiny(recipe).weights
    specs, rng = config.layers, np.random.default_rng(seed)
    layers = tuple(DecoderLayer.build(spec, SOLO, SOLO) for spec in specs)
    attention = [spec.attention for spec in specs]
    kinds = list(dict.fromkeys(attention))
    one, other = (new_cache(specs, batch_size=1, max_length=LENGTH) for _ in range(2))
    x_ND, dispatcher = None, AllGatherDispatcher()
    for start, tokens in ((0, count), (count, 1)):
        x_ND = y_ND = rng.standard_normal((tokens, config.hidden_size), np.float32)
        metadata = [
            metadata_of(kind, [start], [tokens], one, layer=attention.index(kind)) for kind in kinds
        ]
        for layer, kind, cache, layer_weights in zip(
            layers, attention, one.layers, weights.layers, strict=True
        ):
            of_kind = metadata[kinds.index(kind)]
            x_ND = layer(x_ND, of_kind, FIRST, cache, layer_weights, dispatcher=dispatcher)
        y_ND = LayerRange(layers, tuple(map(kinds.index, attention)))(
            y_ND,
            tuple(metadata),
            FIRST,
            tuple(other.layers),
            tuple(weights.layers),
            dispatchers=(dispatcher,) * len(layers),
        )
        np.testing.assert_array_equal(y_ND, x_ND)
    for cache, expected in zip(other.layers, one.layers, strict=True):
        for written, array in zip(cache, expected, strict=True):
            np.testing.assert_array_equal(written, array)


def test_layers_weights_and_caches_are_equally_many():
    layer = DecoderLayer.build(tiny().config.layers[0], SOLO, SOLO)
    with pytest.raises(ValueError, match="zip"):
        LayerRange((layer, layer), (0, 0))(None, (None,), FIRST, (), (), dispatchers=())


@given(st.integers(1, 70), st.integers(1, 80))
def test_every_layer_is_in_one_range(count, most):
    ranges = split_layers(count, most)
    assert [index for layers in ranges for index in layers] == list(range(count))
    assert all(len(layers) == most for layers in ranges[:-1])
    assert 1 <= len(ranges[-1]) <= most
