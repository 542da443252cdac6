"""Embedding and decoder layers: each distinct layer is compiled once; all run in order."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.feed_forward import Dense
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.layers.stack import Stack
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.oracle import layer_io
from tests.support.tiny import Tiny, random_tokens, tiny
from tests.support.watching import WatchingBackend

LENGTH = 30


def stack_of(config: MiMoConfig) -> tuple[Stack, WatchingBackend]:
    backend = WatchingBackend()
    return Stack(config.layers, backend, ParallelContext(ParallelConfig(), SoloGroup())), backend


def hidden_states(stack: Stack, *step, max_step: int) -> np.ndarray:
    """Return the hidden states after the last layer, all chunks together."""
    return np.concatenate([x_BTD for _, x_BTD in stack(*step, max_step=max_step)], axis=1)


def cache_of(model: Tiny, *, batch_size=1, max_length=LENGTH):
    return new_cache(model.config.layers, batch_size=batch_size, max_length=max_length)


def test_48_layers_are_3_programs():
    _, backend = stack_of(MiMoConfig())
    kinds = {(layer.attention.spec.window, type(layer.feed_forward)) for layer in backend.compiled}
    assert len(backend.compiled) == len(kinds) == 3
    assert (NO_WINDOW, Dense) in kinds


def test_the_layers_run_in_their_order():
    model = tiny()
    stack, backend = stack_of(model.config)
    token_BT, position_BT = random_tokens(model, 1, 2), np.array([[0, 1]], np.int32)
    hidden_states(stack, token_BT, position_BT, cache_of(model), model.weights, max_step=9)
    ran = [layer.attention.spec for layer, _ in backend.calls]
    assert ran == [spec.attention for spec in model.config.layers]
    sparse = [not isinstance(layer.feed_forward, Dense) for layer, _ in backend.calls]
    assert sparse == [bool(spec.num_experts) for spec in model.config.layers]


@pytest.mark.parametrize("chunks", [[LENGTH], [1, 20, 9]])
def test_the_stream_after_the_last_layer_is_that_of_transformers(chunks):
    model = tiny()
    token_BT = random_tokens(model, 1, LENGTH)
    _, expected_BTD = layer_io(model, token_BT[0])[str(len(model.config.layers) - 1)]
    (stack, _), cache, start, outputs = stack_of(model.config), cache_of(model), 0, []
    for count in chunks:
        position_BT = np.arange(start, start + count, dtype=np.int32)[None]
        step = token_BT[:, start : start + count], position_BT, cache, model.weights
        outputs.append(hidden_states(stack, *step, max_step=99))
        start += count
        assert cache.length_B.tolist() == [start]
    assert_agrees(np.concatenate(outputs, 1), expected_BTD, scale=5 * np.max(np.abs(expected_BTD)))


def test_caches_of_different_lengths_share_a_stack():
    model = tiny()
    stack, _ = stack_of(model.config)
    token_BT, position_BT = random_tokens(model, 1, 9), np.arange(9, dtype=np.int32)[None]
    outputs = []
    for length in (9, 50, 9):
        step = token_BT, position_BT, cache_of(model, max_length=length), model.weights
        outputs.append(hidden_states(stack, *step, max_step=99))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_a_long_step_comes_in_chunks_as_they_are_computed():
    model = tiny()
    (stack, backend), cache = stack_of(model.config), cache_of(model)
    token_BT, position_BT = random_tokens(model, 1, 9), np.arange(9, dtype=np.int32)[None]
    ends = []
    for columns, x_BTD in stack(token_BT, position_BT, cache, model.weights, max_step=4):
        ends.append((columns.start, columns.stop, x_BTD.shape[1], len(backend.calls)))
    layers = len(model.config.layers)
    assert ends == [(0, 4, 4, layers), (4, 8, 4, 2 * layers), (8, 12, 1, 3 * layers)]


def test_the_stream_has_the_dtype_that_it_was_given():
    model, backend = tiny(), WatchingBackend()
    context = ParallelContext(ParallelConfig(), SoloGroup())
    stack = Stack(model.config.layers, backend, context, ml_dtypes.bfloat16)
    step = random_tokens(model, 1, 9), np.arange(9, dtype=np.int32)[None]
    rounded = hidden_states(stack, *step, cache_of(model), model.weights, max_step=9)
    exact = hidden_states(
        stack_of(model.config)[0], *step, cache_of(model), model.weights, max_step=9
    )
    assert rounded.dtype == ml_dtypes.bfloat16
    error_T = np.max(np.abs(rounded.astype(np.float32) - exact), axis=(0, 2))
    # The median, because near ties of the router may choose other experts for a token.
    assert 0 < np.median(error_T) < 0.05 * np.max(np.abs(exact))
