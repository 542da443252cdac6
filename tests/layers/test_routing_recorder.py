"""Routing recorder: the router's ids of every token, layer and pass; outputs stay the same."""

import threading

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, load_model
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.expert_store.routing_trace import read_trace
from mimo_v2_flash.layers.hooks import HookedLayers
from mimo_v2_flash.layers.routing_recorder import RoutingRecorder
from mimo_v2_flash.parallel import ThreadGroup
from tests.support.shipped import FOLDER

PROMPT = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]]


def test_ids_are_those_of_the_router(tmp_path):
    """A hook on the experts of another model sees the same; the answer is the same too."""
    seen = []

    def hook(call):
        if call.part == "experts":
            seen.append((call.layer, call.args[2].tolist()))

    options = {"max_new_tokens": 4, "temperature": 0}
    expected = load_model(FOLDER, backend=HookedLayers(hook)).generate(PROMPT, **options)
    recorder = RoutingRecorder(NumpyBackend(), tmp_path / "r.jsonl", "name", "ab", 5)
    assert load_model(FOLDER, backend=recorder).generate(PROMPT, **options) == expected
    header, calls = read_trace(tmp_path / "r.jsonl")
    assert [(header.layers[c.layer], c.expert_NA.tolist()) for c in calls] == seen
    assert header[:4] == ("name", "ab", 5, False)
    assert header.layers == [1, 2, 3, 4, 5]
    assert header.sizes.shape == (5, 16)
    assert [call.is_decode for call in calls] == [False] * 5 + [True] * 15


def test_sizes_are_those_of_a_store(tmp_path):
    recorder = RoutingRecorder(NumpyBackend(), tmp_path / "r.jsonl", "")
    model = load_model(FOLDER, backend=recorder, expert_cache="1GB")
    store = model.weights.layers[1].feed_forward.experts.store
    np.testing.assert_array_equal(read_trace(tmp_path / "r.jsonl").header.sizes, store.size_LE)


def test_weights_in_memory_have_the_bytes_of_their_arrays(tmp_path):
    load_model(FOLDER, backend=RoutingRecorder(NumpyBackend(), tmp_path / "r.jsonl", ""), isq=8)
    config = MiMoConfig.from_pretrained(FOLDER)
    weights = 3 * config.hidden_size * config.layers[1].intermediate_size
    assert set(read_trace(tmp_path / "r.jsonl").header.sizes.ravel()) == {weights * 34 // 32}


def test_threads_record_whole_lines(tmp_path):
    recorder = RoutingRecorder(NumpyBackend(), tmp_path / "r.jsonl", "")
    model = load_model(FOLDER, backend=recorder)
    tokens = np.random.default_rng(0).integers(3, 500, (4, 1, 30))
    threads = [threading.Thread(target=model.forward, args=(each,)) for each in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = read_trace(tmp_path / "r.jsonl").calls
    assert sorted(call.layer for call in calls) == sorted([*range(5)] * 4)
    assert {len(call.expert_NA) for call in calls} == {30}


def test_a_static_backend_and_a_ranks_part_are_refused(tmp_path):
    class Static(NumpyBackend):
        execution_mode = "static"

    with pytest.raises(ValueError, match="record_routing is for backend numpy"):
        RoutingRecorder(Static(), tmp_path / "r.jsonl", "")
    group = ThreadGroup(2)

    def load(_):
        recorder = RoutingRecorder(NumpyBackend(), tmp_path / "r.jsonl", "")
        load_model(FOLDER, backend=recorder, group=group)

    with pytest.raises(ValueError, match="record_routing is for one rank"):
        group.run(load)
    assert not (tmp_path / "r.jsonl").exists()
