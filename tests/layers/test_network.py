"""The layers' runner: the chunk of each requested token computes its logits, once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.network import Network
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.tiny import random_tokens, tiny

MODEL = tiny()
B, T = 3, 11
TOKENS = random_tokens(MODEL, B, T)
POSITIONS = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
NETWORK = Network(MODEL.config, NumpyBackend(), ParallelContext(ParallelConfig(), SoloGroup()))


def step(max_step: int) -> tuple:
    cache = new_cache(NETWORK.layers, batch_size=B, max_length=T)
    return TOKENS, POSITIONS, cache, MODEL.weights, max_step


def everywhere() -> np.ndarray:
    return np.broadcast_to(np.arange(T), (B, T))


EXPECTED = NETWORK.logits(everywhere(), *step(T))


@pytest.mark.parametrize("method", [NETWORK.logits, NETWORK.greedy])
def test_every_chunk_is_computed_whoever_asks(method):
    args = step(4)
    method(np.zeros((B, 1), int), *args)
    assert args[2].length_B.tolist() == [T] * B


@settings(max_examples=25)
@given(st.integers(1, T + 1), st.integers(1, 3), st.data())
def test_any_tokens_of_any_chunks_have_their_logits(max_step, n, data):
    index = data.draw(st.lists(st.integers(0, T - 1), min_size=B * n, max_size=B * n))
    index_Bn = np.array(index).reshape(B, n)
    logits_BnV = NETWORK.logits(index_Bn, *step(max_step))
    expected_BnV = np.take_along_axis(EXPECTED, index_Bn[:, :, None], axis=1)
    assert_agrees(logits_BnV, expected_BnV, scale=10 * np.ptp(EXPECTED))
    token_Bn, logit_Bn = NETWORK.greedy(index_Bn, *step(max_step))
    np.testing.assert_array_equal(token_Bn, np.argmax(logits_BnV, axis=2))
    assert_agrees(logit_Bn, np.max(logits_BnV, axis=2), scale=10 * np.ptp(EXPECTED))


@pytest.mark.parametrize("max_step", [1, 4, T])
def test_the_head_runs_only_where_it_is_asked(max_step, monkeypatch):
    shapes = []

    def logits(x_bTD, index_Bn, *args, **kwargs):
        shapes.append(index_Bn.shape)
        return original(x_bTD, index_Bn, *args, **kwargs)

    original = NETWORK._head.logits
    monkeypatch.setattr(NETWORK._head, "logits", logits)
    NETWORK.logits(np.full((B, 1), T - 1), *step(max_step))
    assert shapes == [(B, 1)]
    shapes.clear()
    NETWORK.logits(everywhere(), *step(max_step))
    assert sum(columns for _, columns in shapes) == T
