"""Programs of a decoder layer: on overflow the feed-forward block runs again, attention once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.convert.device_layout import to_device_layout
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kv_cache import new_cache, slot_mapping
from mimo_v2_flash.layers.attention import AttentionMetadata
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.layers.passage import Passage
from mimo_v2_flash.parallel import SoloGroup
from tests.support.agreement import assert_agrees
from tests.support.drawn import seeds
from tests.support.ranks import FIRST
from tests.support.tiny import tiny

MODEL = tiny()
SPARSE = next(index for index, spec in enumerate(MODEL.config.layers) if spec.num_experts)
SPEC, WEIGHTS = MODEL.config.layers[SPARSE], to_device_layout(MODEL.weights).layers[SPARSE]
T = 20
ALL_TOKENS = AllToAllDispatcher(T, T)


class RecordingBackend(NumpyBackend):
    """A NumPy backend that records which programs run."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def compile(self, function):
        """Return `function`, with its calls recorded by the name of its class."""

        def program(*args, **kwargs):
            self.ran.append(type(function).__name__)
            return function(*args, **kwargs)

        return program


def run_layer(dispatchers, *, seed=0):
    """Return hidden states and cache after a prompt of T tokens, and the programs that ran."""
    backend, solo = RecordingBackend(), SoloGroup()
    passage = Passage(DecoderLayer.build(SPEC, solo, solo, EXECUTION_MODES["static"]), backend)
    cache = new_cache((SPEC,), batch_size=1, max_length=T)
    position_BT = np.arange(T, dtype=np.int32)[None]
    attention = SPEC.attention
    table = rope_table(length=T, rotary_dim=attention.rotary_dim, theta=attention.rope_theta)
    step = AttentionMetadata(position_BT, slot_mapping(position_BT, cache.slots[0]), *table)
    x_BTD = np.random.default_rng(seed).standard_normal((1, T, SPEC.hidden_size)).astype(np.float32)
    options = {"kv_length": 0, "dispatchers": dispatchers, "local_tokens": T}
    return passage(x_BTD, step, FIRST, cache.layers[0], WEIGHTS, **options), cache, backend.ran


def test_what_cannot_overflow_is_one_program():
    assert run_layer((AllGatherDispatcher(),))[2] == ["DecoderLayer"]


@settings(max_examples=20)
@given(seeds, st.lists(st.tuples(st.integers(1, T), st.integers(1, T)), max_size=3))
def test_whatever_the_buckets_the_answer_is_that_of_every_token(seed, sizes):
    buckets = *(AllToAllDispatcher(*size) for size in sizes), ALL_TOKENS
    y_BTD, cache, ran = run_layer(buckets, seed=seed)
    expected_BTD, expected, _ = run_layer((AllGatherDispatcher(),), seed=seed)
    assert_agrees(y_BTD, expected_BTD)
    for actual, wanted in zip(cache.layers[0], expected.layers[0], strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert ran.count("AttentionBlock") == (len(buckets) > 1)


@pytest.mark.parametrize(
    "bucket",
    [AllToAllDispatcher(1, T), AllToAllDispatcher(T, 1)],
    ids=["send_capacity", "capacity"],
)
def test_a_bucket_that_overflows_is_followed_by_the_next(bucket):
    assert run_layer((bucket, bucket, ALL_TOKENS))[2] == [
        "AttentionBlock",
        "FeedForwardBlock",
        "FeedForwardBlock",
        "FeedForwardBlock",
    ]
    assert run_layer((ALL_TOKENS, bucket))[2] == ["AttentionBlock", "FeedForwardBlock"]
