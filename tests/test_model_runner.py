"""Model runner: passes of any size, one program per kind of layer, the head where it is wanted."""

import inspect
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.layers.feed_forward import Dense
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.hooks import HookedLayers
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.layers.static_mode import StaticMode
from mimo_v2_flash.model_runner import ModelRunner
from mimo_v2_flash.parallel import SoloGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.drawn import seeds
from tests.support.oracle import layer_io
from tests.support.tiny import random_tokens, running, tiny
from tests.support.watching import WatchingBackend

MODEL = tiny()
LAYERS = len(MODEL.config.layers)
B, T = 3, 11
TOKENS = random_tokens(MODEL, B, T)
EVERYWHERE = np.broadcast_to(np.arange(T), (B, T))


def runner_of(model=MODEL, *, backend=None, max_step=512, **options) -> ModelRunner:
    context = ParallelContext(ParallelConfig(), SoloGroup(), **options.pop("context", {}))
    backend = backend or NumpyBackend()
    return ModelRunner(model.config, model.weights, backend, context, max_step=max_step, **options)


def step_of(index_Bn, token_BT=TOKENS, start: int = 0) -> Step:
    rows, count = token_BT.shape
    return Step(token_BT, np.full(rows, start), np.full(rows, count), np.asarray(index_Bn))


def run(runner: ModelRunner, index_Bn, *, output="logits", cache=None, **step):
    cache = cache or runner.new_cache(B, T, np.float32)
    return runner.forward(getattr(runner, output), step_of(index_Bn, **step), cache)


(EXPECTED,) = run(runner_of(), EVERYWHERE)


@pytest.mark.parametrize("output", ["logits", "greedy_tokens"])
def test_every_token_is_computed_whatever_is_wanted(output):
    runner = runner_of(max_step=4)
    cache = runner.new_cache(B, T, np.float32)
    run(runner, np.zeros((B, 1), int), output=output, cache=cache)
    assert cache.length_B.tolist() == [T] * B


@settings(max_examples=25)
@given(st.integers(1, B * T + 1), st.integers(1, 3), st.data())
def test_any_tokens_of_any_passes_have_their_logits(max_step, n, data):
    index = data.draw(st.lists(st.integers(0, T - 1), min_size=B * n, max_size=B * n))
    index_Bn, runner = np.array(index).reshape(B, n), runner_of(max_step=max_step)
    (logits_BnV,) = run(runner, index_Bn)
    expected_BnV = np.take_along_axis(EXPECTED, index_Bn[:, :, None], axis=1)
    assert_agrees(logits_BnV, expected_BnV, scale=10 * np.ptp(EXPECTED))
    token_Bn, logit_Bn = run(runner, index_Bn, output="greedy_tokens")
    np.testing.assert_array_equal(token_Bn, np.argmax(logits_BnV, axis=2))
    assert_agrees(logit_Bn, np.max(logits_BnV, axis=2), scale=10 * np.ptp(EXPECTED))


@pytest.mark.parametrize("max_step", [1, 4, T, B * T])
def test_the_head_computes_the_wanted_tokens_alone(max_step, monkeypatch):
    runner, counts = runner_of(max_step=max_step), []
    head = runner.logits._head
    monkeypatch.setattr(
        runner.logits, "_head", lambda x, row_N, *w: counts.append(len(row_N)) or head(x, row_N, *w)
    )
    run(runner, np.full((B, 1), T - 1))
    assert sum(counts) == B
    counts.clear()
    run(runner, EVERYWHERE)
    assert sum(counts) == B * T


@pytest.mark.parametrize("lengths", [[9] * 8, [8, 64, 8, 16, 8, 32, 8, 4]])
def test_threads_that_share_a_model_make_each_rope_table_once(monkeypatch, lengths):
    runner, made, barrier = runner_of(), [], Barrier(len(lengths), timeout=30)

    def slow_table(*, length, **kwargs):
        made.append(length)
        time.sleep(0.2 / length)  # the shortest table is ready last
        return rope_table(length=length, **kwargs)

    def table_length(length):
        barrier.wait()
        return runner._rope_table(length, kind)[0].shape[0]

    monkeypatch.setattr("mimo_v2_flash.model_runner.rope_table", slow_table)
    kind = runner.layers[0].attention
    with ThreadPoolExecutor(len(lengths)) as pool:
        actual = list(pool.map(table_length, lengths))
    assert all(got >= length for got, length in zip(actual, lengths, strict=True))
    assert made == sorted(set(made))  # each is longer than those before it


def is_dense(layer) -> bool:
    return isinstance(layer.feed_forward_block.feed_forward, Dense)


def test_48_layers_are_3_programs():
    backend = WatchingBackend()
    config = MiMoConfig()
    runner_of(MODEL._replace(config=config), backend=backend)
    kinds = {
        (layer.attention_block.attention.spec.window, is_dense(layer)) for layer in backend.compiled
    }
    assert len(backend.compiled) == len(kinds) == 3
    assert (NO_WINDOW, True) in kinds


def test_the_layers_run_in_their_order():
    backend = WatchingBackend()
    run(runner_of(backend=backend), EVERYWHERE)
    assert [layer.attention_block.attention.spec for layer, _ in backend.calls] == [
        spec.attention for spec in MODEL.config.layers
    ]
    dense = [is_dense(layer) for layer, _ in backend.calls]
    assert dense == [not spec.num_experts for spec in MODEL.config.layers]


def test_from_a_step_to_a_layer_are_four_frames():
    depths = []

    class Looking(WatchingBackend):
        """A backend whose layers record how deep they are called."""

        def _recorded(self, layer):
            def program(*args, **kwargs):
                names = [frame.function for frame in inspect.stack()]
                depths.append(names.index("step"))
                return layer(*args, **kwargs)

            return program

    running(MODEL, backend=Looking()).forward(TOKENS)
    assert set(depths) == {3}  # step, forward, _run_pass, the layer


@pytest.mark.parametrize("chunks", [[30], [1, 20, 9]])
def test_hidden_states_after_the_last_layer_are_those_of_transformers(chunks):
    token_BT = random_tokens(MODEL, 1, 30)
    _, expected_BTD = layer_io(MODEL, token_BT[0])[str(LAYERS - 1)]
    outputs = []

    def keep(call):
        if (call.layer, call.part) == (LAYERS - 1, "layer"):
            outputs.append(call.output)

    runner, start = runner_of(backend=HookedLayers(keep)), 0
    cache = runner.new_cache(1, 30, np.float32)
    for count in chunks:
        part = token_BT[:, start : start + count]
        run(runner, [[0]], cache=cache, token_BT=part, start=start)
        start += count
        assert cache.length_B.tolist() == [start]
    y_TD = np.concatenate(outputs)
    assert_agrees(y_TD, expected_BTD[0], scale=5 * np.max(np.abs(expected_BTD)))


def test_caches_of_different_lengths_share_a_runner():
    runner = runner_of()
    outputs = [
        run(runner, EVERYWHERE, cache=runner.new_cache(B, length, np.float32))[0]
        for length in (T, 50, T)
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_hidden_states_have_the_dtype_that_was_chosen():
    states = {}

    def run_in(dtype) -> np.ndarray:
        def keep(call):
            states[dtype] = call.output if call.part == "layer" else states.get(dtype)

        run(runner_of(backend=HookedLayers(keep), dtype=dtype), EVERYWHERE)
        return states[dtype]

    rounded, exact = run_in(ml_dtypes.bfloat16), run_in(np.float32)
    assert (rounded.dtype, exact.dtype) == (ml_dtypes.bfloat16, np.float32)
    error_N = np.max(np.abs(rounded.astype(np.float32) - exact), axis=1)
    # The median, because near ties of the router may choose other experts for a token.
    assert 0 < np.median(error_N) < 0.05 * np.max(np.abs(exact))


class RecordingBackend(NumpyBackend):
    """A static-mode backend on NumPy that records which parts of layers run."""

    execution_mode = "static"

    def __init__(self) -> None:
        self.ran: list[str] = []

    def compile(self, function, *, donate=None):
        """Return `function`, with its calls recorded by its name."""

        def program(*args, **kwargs):
            self.ran.append(getattr(function, "__name__", type(function).__name__))
            return function(*args, **kwargs)

        return program


def run_with(dispatchers, *, seed=0, monkeypatch):
    """Return logits, cache and the parts that ran, of a prompt on one layer of experts."""
    index = next(index for index, spec in enumerate(MODEL.config.layers) if spec.num_experts)
    pattern = {
        name: (getattr(MODEL.config, name)[index],)
        for name in ("hybrid_layer_pattern", "moe_layer_freq")
    }
    config = replace(MODEL.config, num_hidden_layers=1, **pattern)
    layers = (to_device_layout(MODEL.weights).layers[index],)
    model = MODEL._replace(config=config, weights=MODEL.weights._replace(layers=layers))
    backend, mode = RecordingBackend(), StaticMode()
    monkeypatch.setattr(mode, "dispatchers", lambda *_: dispatchers, raising=False)
    runner = runner_of(model, backend=backend, context={"mode": mode})
    cache = runner.new_cache(1, 20, np.float32)
    token_BT = random_tokens(MODEL, 1, 20, seed=seed)
    logits = run(runner, np.arange(20)[None], cache=cache, token_BT=token_BT)
    return logits[0], cache, [name for name in backend.ran if name not in {"embed", "LogitsHead"}]


LONG = 512  # the length of the padded chunk
ALL_TOKENS = AllToAllDispatcher(LONG, LONG)


def test_what_cannot_overflow_is_one_program(monkeypatch):
    assert run_with((AllGatherDispatcher(),), monkeypatch=monkeypatch)[2] == ["DecoderLayer"]


@settings(max_examples=20)
@given(seeds, st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=3))
def test_whatever_the_buckets_the_result_is_that_of_every_token(seed, sizes):
    buckets = *(AllToAllDispatcher(*size) for size in sizes), ALL_TOKENS
    with pytest.MonkeyPatch.context() as monkeypatch:
        logits, cache, ran = run_with(buckets, seed=seed, monkeypatch=monkeypatch)
        every = (AllGatherDispatcher(),)
        expected, other, _ = run_with(every, seed=seed, monkeypatch=monkeypatch)
    assert_agrees(logits, expected, scale=10 * np.ptp(expected))
    for actual, wanted in zip(cache.layers[0], other.layers[0], strict=True):
        np.testing.assert_array_equal(actual[:-1], wanted[:-1])
    assert ran.count("AttentionBlock") == (len(buckets) > 1)


@pytest.mark.parametrize(
    "bucket",
    [AllToAllDispatcher(1, LONG), AllToAllDispatcher(LONG, 1)],
    ids=["send_capacity", "capacity"],
)
def test_a_bucket_that_overflows_is_followed_by_the_next(bucket, monkeypatch):
    ran = run_with((bucket, bucket, ALL_TOKENS), monkeypatch=monkeypatch)[2]
    assert ran == ["AttentionBlock", *["FeedForwardBlock"] * 3]
    ran = run_with((ALL_TOKENS, bucket), monkeypatch=monkeypatch)[2]
    assert ran == ["AttentionBlock", "FeedForwardBlock"]
