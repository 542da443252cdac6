"""Attention layer against transformers' module with equal weights, with and without a KV cache."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kv_cache import HybridCache, new_cache
from mimo_v2_flash.layers.attention import Attention
from mimo_v2_flash.layers.eager_attention import eager_attend
from mimo_v2_flash.parallel import SoloGroup
from tests.support.agreement import assert_agrees
from tests.support.batches import metadata_of
from tests.support.drawn import CACHED
from tests.support.oracle import layer_io
from tests.support.tiny import random_tokens, recipes, tiny

MODEL = tiny()
LAYERS = range(len(MODEL.config.layers))
SPECS = [layer.attention for layer in MODEL.config.layers]
WEIGHTS = [layer.attention for layer in MODEL.weights.layers]
LENGTH = 30
every_layer = pytest.mark.parametrize("index", LAYERS)


def empty_cache(model, dtype=np.float32) -> HybridCache:
    """Return an empty KV cache for one sequence."""
    return new_cache(model.config.layers, batch_size=1, max_length=LENGTH, dtype=dtype)


def attended(
    model, index: int, x_TD, *, chunks, query_block=4, dtype=np.float32, **options
) -> np.ndarray:
    """Return the layer's output for `x_TD`, computed in chunks of `chunks` tokens."""
    spec, cache = model.config.layers[index].attention, empty_cache(model, dtype)
    layer = Attention(spec, SoloGroup(), query_block, **options)
    weights, start, outputs = model.weights.layers[index].attention, 0, []
    for count in chunks:
        metadata = metadata_of(spec, [start], [count], cache, layer=index)
        x_ND = x_TD[start : start + count]
        y = layer(x_ND, metadata, cache.layers[index], weights)
        outputs.append(y)
        start += count
    return np.concatenate(outputs)


@settings(max_examples=10)
@given(recipes(), st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_every_layer_is_transformers(recipe, length, query_block):
    model = tiny(recipe)
    expected = layer_io(model, random_tokens(model, length))
    for index in range(len(recipe.layers)):
        (x_TD,), (expected_TD,) = expected[f"{index}.self_attn"]
        y_TD = attended(model, index, x_TD, chunks=[length], query_block=query_block)
        assert_agrees(y_TD, expected_TD, scale=5 * np.max(np.abs(expected_TD)))


@every_layer
@pytest.mark.parametrize("chunks", [[1] * LENGTH, [13, 1, 1, 9, 6], [29, 1]])
def test_with_the_past_in_its_cache_it_is_transformers(index, chunks):
    inputs, outputs = layer_io(MODEL, random_tokens(MODEL, LENGTH))[f"{index}.self_attn"]
    y_TD = attended(MODEL, index, inputs[0], chunks=chunks)
    assert_agrees(y_TD, outputs[0], scale=5 * np.max(np.abs(outputs[0])))


@every_layer
@pytest.mark.parametrize("dtype", CACHED[1:], ids=str)
@pytest.mark.parametrize("chunks", [[1] * LENGTH, [13, 1, 1, 9, 6]])
def test_a_step_sees_its_tokens_as_the_cache_will_hold_them(index, chunks, dtype):
    x_TD = np.random.default_rng(0).standard_normal((LENGTH, 23)).astype(np.float32)
    whole, exact, y_TD = (
        attended(MODEL, index, x_TD, chunks=parts, dtype=stored, attend=eager_attend)
        for parts, stored in (([LENGTH], dtype), ([LENGTH], np.float32), (chunks, dtype))
    )
    rounding = np.max(np.abs(whole - exact))
    assert rounding > 0
    assert np.max(np.abs(y_TD - whole)) < rounding / 20


@every_layer
def test_values_are_scaled_before_they_are_cached(index):
    spec, weights, cache = SPECS[index], WEIGHTS[index], empty_cache(MODEL)
    x_ND = np.random.default_rng(0).standard_normal((1, 23)).astype(np.float32)
    metadata = metadata_of(spec, [0], [1], cache, layer=index)
    Attention(spec, SoloGroup(), 4)(x_ND, metadata, cache.layers[index], weights)
    value_KC = (weights.w_v_OD @ x_ND[0]).reshape(spec.num_kv_heads, -1)
    assert_agrees(cache.layers[index].v_ZKC[0], value_KC * np.float32(0.707))


@every_layer
def test_it_answers_in_the_dtype_of_the_stream(index):
    x_TD = np.random.default_rng(0).standard_normal((9, 23)).astype(np.float32)
    exact = attended(MODEL, index, x_TD, chunks=[9])
    rounded = attended(MODEL, index, x_TD.astype(ml_dtypes.bfloat16), chunks=[9])
    assert (exact.dtype, rounded.dtype) == (np.float32, ml_dtypes.bfloat16)
    assert_agrees(rounded, exact, scale=10 * np.max(np.abs(exact)))


def test_a_full_layer_may_have_sinks_as_a_sliding_one():
    # transformers has no such layer. A window as long as the step is equal to no window.
    index = next(index for index in LAYERS if SPECS[index].has_sink)
    x_TD = np.random.default_rng(0).standard_normal((9, 23)).astype(np.float32)
    outputs = []
    for window in (NO_WINDOW, 9):
        layer, cache = (
            Attention(replace(SPECS[index], window=window), SoloGroup(), 4),
            empty_cache(MODEL),
        )
        metadata = metadata_of(SPECS[index], [0], [9], cache)
        k_ZKQ, v_ZKC, position_Z = cache.layers[0]
        wide = KVCache(np.repeat(k_ZKQ, 2, axis=1), np.repeat(v_ZKC, 2, axis=1), position_Z)
        outputs.append(layer(x_TD, metadata, wide, WEIGHTS[index]))
    assert_agrees(*outputs)


class DoublingGroup(SoloGroup):
    """A fake group of two ranks with equal tensors."""

    def all_reduce(self, x):
        """Return the sum of both ranks' tensors."""
        return 2 * x


def test_the_shares_of_all_ranks_are_added_up():
    x_ND = np.random.default_rng(0).standard_normal((1, 23)).astype(np.float32)
    outputs = []
    for group in (SoloGroup(), DoublingGroup()):
        cache = empty_cache(MODEL)
        metadata = metadata_of(SPECS[0], [0], [1], cache)
        layer = Attention(SPECS[0], group, 4)
        outputs.append(layer(x_ND, metadata, cache.layers[0], WEIGHTS[0]))
    np.testing.assert_array_equal(2 * outputs[0], outputs[1])
