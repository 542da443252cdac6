"""The stack: every distinct layer is compiled once, and all of them run in their order."""

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
from tests.support.oracle import overheard
from tests.support.tiny import Tiny, random_tokens, tiny
from tests.support.watching import WatchingBackend

LENGTH = 30


def stack_of(config: MiMoConfig) -> tuple[Stack, WatchingBackend]:
    backend = WatchingBackend()
    return Stack(config.layers, backend, ParallelContext(ParallelConfig(), SoloGroup())), backend


def stream_of(stack: Stack, *step, max_step: int) -> np.ndarray:
    """Return the stream after the last layer, all chunks together."""
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
    stream_of(stack, token_BT, position_BT, cache_of(model), model.weights, max_step=9)
    ran = [layer.attention.spec for layer, _ in backend.calls]
    assert ran == [spec.attention for spec in model.config.layers]
    sparse = [not isinstance(layer.feed_forward, Dense) for layer, _ in backend.calls]
    assert sparse == [bool(spec.num_experts) for spec in model.config.layers]


@pytest.mark.parametrize("chunks", [[LENGTH], [1, 20, 9]])
def test_the_stream_after_the_last_layer_is_that_of_transformers(chunks):
    model = tiny()
    token_BT = random_tokens(model, 1, LENGTH)
    _, expected_BTD = overheard(model, token_BT[0])[str(len(model.config.layers) - 1)]
    (stack, _), cache, start, parts = stack_of(model.config), cache_of(model), 0, []
    for count in chunks:
        position_BT = np.arange(start, start + count, dtype=np.int32)[None]
        part_BT = token_BT[:, start : start + count]
        parts.append(stream_of(stack, part_BT, position_BT, cache, model.weights, max_step=99))
        start += count
        assert cache.length_B.tolist() == [start]
    assert_agrees(np.concatenate(parts, 1), expected_BTD, scale=5 * np.max(np.abs(expected_BTD)))


def test_caches_of_different_lengths_share_a_stack():
    model = tiny()
    stack, _ = stack_of(model.config)
    token_BT, position_BT = random_tokens(model, 1, 9), np.arange(9, dtype=np.int32)[None]
    answers = []
    for length in (9, 50, 9):
        step = token_BT, position_BT, cache_of(model, max_length=length), model.weights
        answers.append(stream_of(stack, *step, max_step=99))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


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
    stack = Stack(
        model.config.layers,
        backend,
        ParallelContext(ParallelConfig(), SoloGroup()),
        ml_dtypes.bfloat16,
    )
    step = random_tokens(model, 1, 9), np.arange(9, dtype=np.int32)[None]
    rounded = stream_of(stack, *step, cache_of(model), model.weights, max_step=9)
    exact = stream_of(stack_of(model.config)[0], *step, cache_of(model), model.weights, max_step=9)
    assert rounded.dtype == ml_dtypes.bfloat16
    error_T = np.max(np.abs(rounded.astype(np.float32) - exact), axis=(0, 2))
    assert 0 < np.median(error_T) < 0.05 * np.max(np.abs(exact))  # a near tie may go the other way
