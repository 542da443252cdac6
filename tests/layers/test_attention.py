"""Attention layer against transformers' module with equal weights, with and without a KV cache."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.config import NO_WINDOW, AttentionSpec
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kv_cache import new_cache, slot_mapping
from mimo_v2_flash.layers.attention import Attention, AttentionMetadata
from mimo_v2_flash.parallel import SoloGroup
from tests.support.agreement import assert_agrees
from tests.support.oracle import layer_io
from tests.support.steps import positions
from tests.support.tiny import random_tokens, recipes, tiny

MODEL = tiny()
LAYERS = range(len(MODEL.config.layers))
SPECS = [layer.attention for layer in MODEL.config.layers]
WEIGHTS = [layer.attention for layer in MODEL.weights.layers]
LENGTH = 30
every_layer = pytest.mark.parametrize("index", LAYERS)


def empty_cache(model, index: int) -> tuple[KVCache, int]:
    """Return a layer's empty KV cache for one sequence, and its number of slots."""
    cache = new_cache(model.config.layers, batch_size=1, max_length=LENGTH)
    return cache.layers[index], cache.slots[index]


def step_at(spec: AttentionSpec, position_BT, slots: int) -> AttentionMetadata:
    table = rope_table(length=LENGTH, rotary_dim=spec.rotary_dim, theta=spec.rope_theta)
    return AttentionMetadata(position_BT, slot_mapping(position_BT, slots), *table)


def attended(model, index: int, x_BTD, *, chunks, query_block=4) -> np.ndarray:
    """Return the layer's output for `x_BTD`, computed in chunks of `chunks` tokens."""
    spec, (cache, slots) = model.config.layers[index].attention, empty_cache(model, index)
    layer = Attention(spec, SoloGroup(), query_block)
    weights, start, outputs = model.weights.layers[index].attention, 0, []
    for count in chunks:
        step = step_at(spec, positions([start], [count], count), slots)
        x = x_BTD[:, start : start + count]
        outputs.append(layer(x, step, cache, weights, kv_length=min(start, slots)))
        start += count
    return np.concatenate(outputs, axis=1)


@settings(max_examples=10)
@given(recipes(), st.integers(1, LENGTH), st.integers(1, LENGTH))
def test_every_layer_is_transformers(recipe, length, query_block):
    model = tiny(recipe)
    expected = layer_io(model, random_tokens(model, length))
    for index in range(len(recipe.layers)):
        x_BTD, expected_BTD = expected[f"{index}.self_attn"]
        y_BTD = attended(model, index, x_BTD, chunks=[length], query_block=query_block)
        assert_agrees(y_BTD, expected_BTD, scale=5 * np.max(np.abs(expected_BTD)))


@every_layer
@pytest.mark.parametrize("chunks", [[1] * LENGTH, [13, 1, 1, 9, 6], [29, 1]])
def test_with_the_past_in_its_cache_it_is_transformers(index, chunks):
    x_BTD, expected_BTD = layer_io(MODEL, random_tokens(MODEL, LENGTH))[f"{index}.self_attn"]
    y_BTD = attended(MODEL, index, x_BTD, chunks=chunks)
    assert_agrees(y_BTD, expected_BTD, scale=5 * np.max(np.abs(expected_BTD)))


@every_layer
def test_values_are_scaled_before_they_are_cached(index):
    spec, weights, (cache, slots) = SPECS[index], WEIGHTS[index], empty_cache(MODEL, index)
    x_BTD = np.random.default_rng(0).standard_normal((1, 1, 23)).astype(np.float32)
    step = step_at(spec, positions([0], [1], 1), slots)
    Attention(spec, SoloGroup(), 4)(x_BTD, step, cache, weights, kv_length=0)
    value_KC = (weights.w_v_OD @ x_BTD[0, 0]).reshape(spec.num_kv_heads, -1)
    assert_agrees(cache.v_ZKC[0], value_KC * np.float32(0.707))


@every_layer
def test_it_answers_in_the_dtype_of_the_stream(index):
    x_BTD = np.random.default_rng(0).standard_normal((1, 9, 23)).astype(np.float32)
    exact = attended(MODEL, index, x_BTD, chunks=[9])
    rounded = attended(MODEL, index, x_BTD.astype(ml_dtypes.bfloat16), chunks=[9])
    assert (exact.dtype, rounded.dtype) == (np.float32, ml_dtypes.bfloat16)
    assert_agrees(rounded, exact, scale=10 * np.max(np.abs(exact)))


def test_a_full_layer_may_have_sinks_as_a_sliding_one():
    # transformers has no such layer. A window as long as the step is equal to no window.
    index = next(index for index in LAYERS if SPECS[index].has_sink)
    x_BTD = np.random.default_rng(0).standard_normal((1, 9, 23)).astype(np.float32)
    outputs = []
    for window in (NO_WINDOW, 9):
        layer = Attention(replace(SPECS[index], window=window), SoloGroup(), 4)
        step = step_at(SPECS[index], positions([0], [9], 9), LENGTH)
        cache, _ = empty_cache(MODEL, 0)
        wide = KVCache(*(np.repeat(part, 2, axis=1) for part in cache[:2]), cache.position_Z)
        outputs.append(layer(x_BTD, step, wide, WEIGHTS[index], kv_length=0))
    assert_agrees(*outputs)


class DoublingGroup(SoloGroup):
    """A fake group of two ranks with equal tensors."""

    def all_reduce(self, x):
        """Return the sum of both ranks' tensors."""
        return 2 * x


def test_the_shares_of_all_ranks_are_added_up():
    x_BTD = np.random.default_rng(0).standard_normal((1, 1, 23)).astype(np.float32)
    outputs = []
    for group in (SoloGroup(), DoublingGroup()):
        cache, slots = empty_cache(MODEL, 0)
        step = step_at(SPECS[0], positions([0], [1], 1), slots)
        outputs.append(Attention(SPECS[0], group, 4)(x_BTD, step, cache, WEIGHTS[0], kv_length=0))
    np.testing.assert_array_equal(2 * outputs[0], outputs[1])
