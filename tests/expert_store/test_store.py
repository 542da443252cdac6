"""The expert store: the bits of mapped experts at any budget, from any threads, after any fault."""

import gc
import os
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.expert_store import ExpertReadError, StoredExperts, find_store
from mimo_v2_flash.expert_store import store as module
from mimo_v2_flash.expert_store.eviction_policies import POLICIES
from mimo_v2_flash.layers.eager_experts import eager_experts
from tests.support.chosen_experts import random_experts, random_step
from tests.support.drawn import seeds
from tests.support.mapped_experts import mapped_experts, model_of, store_of
from tests.support.residency_oracle import Call, replay
from tests.support.stored_weights import KINDS

E = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("experts")


@pytest.fixture
def layers(tmp_path):
    """Two layers of experts of one format, mapped, and a dense one between them."""
    random = np.random.default_rng(0)
    first, last = (
        mapped_experts(tmp_path / f"{name}.bin", random_experts(random, ["float8"] * E, D=24, F=16))
        for name in ("first", "last")
    )
    return first, None, last


def ignore(held):
    """Compute nothing."""


def step_of(seed: int, N: int = 5, A: int = 3, D: int = 24):
    return random_step(seed, ["float32"] * E, N=N, A=A, D=D, F=16)[:3]


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=E),
    st.sampled_from([1, 2, 9, 130]),
    st.sampled_from(list(POLICIES)),
    st.integers(0, 10),
    st.data(),
)
def test_any_budget_gives_the_bits_of_the_mapped_experts(
    folder, seed, kinds, N, policy, tenths, data
):
    """Few tokens and many, in one format and in several, twice each."""
    A = data.draw(st.integers(1, len(kinds)))
    step = random_step(seed, kinds, N=N, A=A, D=65, F=33)
    mapped = mapped_experts(folder / "drawn.bin", step.experts, seed)
    sizes = store_of([mapped], 1 << 30).size_LE
    least, whole = int(sizes.max()), int(sizes.sum())
    store = store_of([mapped], least + (whole - least) * tenths // 10, policy)
    for _ in range(2):
        y_ND = eager_experts(*step[:3], StoredExperts(store, 0))
        np.testing.assert_array_equal(y_ND, eager_experts(*step))
    assert store.stats.peak_bytes <= store.stats.max_bytes


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), seeds), max_size=12),
    st.sampled_from(list(POLICIES)),
    st.integers(0, 2 * E),
)
def test_counters_are_those_of_the_reference(folder, calls, policy, more):
    random = np.random.default_rng(0)
    experts = random_experts(random, ["bfloat16"] * E, D=24, F=16)
    mapped = mapped_experts(folder / "counted.bin", experts)
    size = int(store_of([mapped], 1 << 30).size_LE.max())
    store, replayed = store_of([mapped, mapped], (1 + more) * size, policy), []
    for layer, seed in calls:
        step = step_of(seed)
        eager_experts(*step, StoredExperts(store, layer))
        chosen = {int(e) for e in step[2].ravel()} - {E}
        replayed.append(Call(layer, tuple(sorted(chosen)), len(step[0])))
    expected = replay(replayed, store.size_LE.tolist(), (1 + more) * size, policy)
    stats = store.stats
    assert (stats.hits, stats.misses, stats.cold_misses) == expected[:3]
    assert stats.evictions == len(expected.evicted)
    assert stats.read_bytes >= stats.misses * min(store.size_LE.ravel())


def test_an_evicted_expert_takes_no_memory(layers, monkeypatch):
    """Buffers that live never have more bytes than the budget, with one call's group in use."""
    alive, new = [], module.new_buffer

    class Buffer(np.ndarray):
        pass

    def counted(nbytes):
        buffer = new(nbytes).view(Buffer)
        alive.append(weakref.ref(buffer))
        return buffer

    monkeypatch.setattr(module, "new_buffer", counted)
    size = int(store_of(layers, 1 << 30).size_LE.max())
    store = store_of(layers, 2 * size)
    gc.disable()
    try:
        for seed in range(6):
            eager_experts(*step_of(seed), StoredExperts(store, seed % 2))
            buffers = [buffer for reference in alive if (buffer := reference()) is not None]
            assert store.stats.held_bytes == sum(buffer.nbytes for buffer in buffers)
            del buffers
    finally:
        gc.enable()


def test_a_group_is_not_evicted_while_it_computes(layers):
    size = int(store_of(layers, 1 << 30).size_LE.max())
    store, seen, others = store_of(layers, 2 * size, "lru"), [], []

    def compute(held):
        content = {expert: np.array(w.w_gate_FD.code) for expert, w in held.items()}
        other = threading.Thread(target=store.run_call, args=(1, [0, 1, 2], 1, seen.append))
        other.start()
        others.append(other)
        other.join(0.05)
        for expert, code in content.items():
            np.testing.assert_array_equal(held[expert].w_gate_FD.code, code)
            np.testing.assert_array_equal(code, layers[0][expert].w_gate_FD.code)

    store.run_call(0, [1, 4], 1, compute)
    store.run_call(0, [0], 1, ignore)
    for other in others:
        other.join()
    assert sorted(expert for held in seen for expert in held) == [0, 1, 2]
    assert store.stats.peak_bytes <= 2 * size


@pytest.mark.parametrize("records", [1, 3, 2 * E])
def test_threads_share_a_store(layers, records):
    size = int(store_of(layers, 1 << 30).size_LE.max())
    store = store_of(layers, records * size)
    expected = {(s, i): eager_experts(*step_of(s), layers[2 * i]) for s in range(8) for i in (0, 1)}

    def run(task):
        return task, eager_experts(*step_of(task[0]), StoredExperts(store, task[1]))

    with ThreadPoolExecutor(6) as pool:
        for task, y_ND in pool.map(run, [*expected] * 4):
            np.testing.assert_array_equal(y_ND, expected[task])
    assert store.stats.peak_bytes <= records * size
    if records == 2 * E:  # nobody read what another one was reading
        assert store.stats.misses == store.stats.cold_misses


def test_two_models_share_nothing(layers):
    stores = [store_of(layers, 1 << 20) for _ in range(2)]
    eager_experts(*step_of(0), StoredExperts(stores[0], 0))
    assert stores[0].stats.misses
    assert stores[1].stats.misses == stores[1].stats.held_bytes == 0


def test_an_expert_outside_of_a_call_is_a_copy(layers):
    store = store_of(layers, 1 << 20)
    experts = StoredExperts(store, 1)
    assert len(experts) == E
    np.testing.assert_array_equal(experts[2].w_up_FD.code, layers[2][2].w_up_FD.code)
    assert experts[2].w_up_FD.code is not experts[2].w_up_FD.code
    assert store.stats.misses == store.stats.held_bytes == 0


class Failing:
    """A reader that fails as often as it is told to, half-way through its records."""

    def __init__(self, reader, times: int) -> None:
        self.reader, self.times, self.is_direct = reader, times, False

    def read(self, records):
        records = list(records)
        if self.times:
            self.times -= 1
            self.reader.read(records[:1])
            raise ExpertReadError("model.safetensors: Stale file handle")
        self.reader.read(records)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_read_that_fails_leaves_the_store_right(layers, policy):
    size = int(store_of(layers, 1 << 30).size_LE.max())
    store = store_of(layers, 4 * size, policy)
    eager_experts(*step_of(0), StoredExperts(store, 0))
    before = store.stats.read_bytes
    store._reader = Failing(store._reader, 1)
    with pytest.raises(ExpertReadError, match="Stale file handle"):
        eager_experts(*step_of(1), StoredExperts(store, 1))
    assert store.stats.read_bytes == before
    assert store.stats.held_bytes <= 4 * size
    for seed in range(4):
        y_ND = eager_experts(*step_of(seed), StoredExperts(store, seed % 2))
        np.testing.assert_array_equal(y_ND, eager_experts(*step_of(seed), layers[2 * (seed % 2)]))


def test_all_who_wait_for_a_read_that_fails_are_told(layers):
    """And none of them keeps what it had pinned."""
    size = int(store_of(layers, 1 << 30).size_LE.max())
    store, begun, go = store_of(layers, size), threading.Event(), threading.Event()
    reader = store._reader

    class Held(Failing):
        def read(self, records):
            begun.set()
            assert go.wait(30)
            super().read(records)

    store._reader = Held(reader, 1)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(store.run_call, 0, [3], 1, ignore)]
        assert begun.wait(30)
        calls.append(pool.submit(store.run_call, 0, [3], 1, ignore))
        while store.stats.hits == 0:
            pass
        go.set()
        for call in calls:
            with pytest.raises(ExpertReadError):
                call.result(30)
    store._reader = reader
    store.run_call(1, [0], 1, ignore)
    assert store.stats.held_bytes == store.size_LE[1, 0]


def test_an_error_of_the_caller_releases_its_experts(layers):
    size = int(store_of(layers, 1 << 30).size_LE.max())
    store = store_of(layers, size)

    def fail(held):
        raise ZeroDivisionError

    for expert in range(E):
        with pytest.raises(ZeroDivisionError):
            store.run_call(0, [expert], 1, fail)
        assert not store._residency._pins_K.any()
    assert store.stats.misses == E
    assert store.stats.held_bytes <= size


def test_a_file_that_is_deleted_is_still_read(layers, tmp_path):
    store = store_of(layers, 1 << 20)
    for file in tmp_path.glob("*.bin"):
        file.unlink()
    y_ND = eager_experts(*step_of(0), StoredExperts(store, 0))
    np.testing.assert_array_equal(y_ND, eager_experts(*step_of(0), layers[0]))


def test_a_file_that_is_cut_short_fails_by_name_and_can_come_back(layers, tmp_path):
    file = tmp_path / "last.bin"
    content = file.read_bytes()
    store, step = store_of(layers, 1 << 20), step_of(0)
    expected_ND = eager_experts(*step, layers[2])
    os.truncate(file, 100)
    with pytest.raises(ExpertReadError, match=r"last\.bin: ends at byte \d+, expected .*truncated"):
        eager_experts(*step, StoredExperts(store, 1))
    eager_experts(*step, StoredExperts(store, 0))
    with file.open("r+b") as again:
        again.write(content)
    np.testing.assert_array_equal(eager_experts(*step, StoredExperts(store, 1)), expected_ND)


def test_what_cannot_be_stored_is_refused(layers, tmp_path):
    with pytest.raises(ValueError, match="expert_cache is for a model with experts"):
        store_of([None], 100)
    with pytest.raises(ValueError, match="expert_cache is 1 bytes, expected room for an expert"):
        store_of(layers, 1)
    in_memory = random_experts(np.random.default_rng(0), ["float8"], D=24, F=16)
    with pytest.raises(
        ValueError, match=r"layer 1, expert 0 .*: its gate is not in a file .*mimo qu"
    ):
        store_of([None, in_memory], 1 << 20)
    mapped = layers[0]
    parts = ExpertWeights.of([[mapped[0].w_gate_FD.code[:, ::2]] * 3])
    with pytest.raises(ValueError, match="not in a file as memory holds it"):
        store_of([parts], 1 << 20)
    os.truncate(tmp_path / "first.bin", 100)
    with pytest.raises(ExpertReadError, match=r"first\.bin: has 100 bytes, not [\d,]+ as when lo"):
        store_of(layers, 1 << 20)
    (tmp_path / "first.bin").unlink()
    with pytest.raises(ExpertReadError, match=r"first\.bin: No such file"):
        store_of(layers, 1 << 20)


def test_a_store_is_not_pickled(layers):
    with pytest.raises(TypeError, match="a model with an expert store is not pickled"):
        pickle.dumps(store_of(layers, 1 << 20))


def test_a_model_without_a_store_has_none(layers):
    class Model:
        weights = model_of(layers)

    assert find_store(Model()) is None
    assert find_store(object()) is None
