"""The Neuron backend on fakes of runtime and compiler: NumPy's tokens, and clear errors."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kernels import ops
from tests.support.neuron_stand_ins import CORE, stand_in
from tests.support.tiny import Recipe, random_tokens, running, tiny

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy

X = np.arange(6, dtype=np.float32).reshape(2, 3)
ROW = np.array([4, 1], np.int32)


class Cache(NamedTuple):
    """A buffer that a program updates in place, and an input that it does not use."""

    k_ZD: Any
    unused_D: Any


def layer(x, row, cache, *, factor: float):
    ops.put_rows(cache.k_ZD, row, x)
    return x * np.float32(factor)


def counted(x):
    return np.sum(x, axis=0), x * np.float32(2)


@pytest.fixture
def make_backend(monkeypatch, tmp_path):
    """Return a factory of backends that share one compile cache."""
    stand_in(monkeypatch)
    from mimo_v2_flash.execution.registry import get_backend

    return lambda **options: get_backend("neuron", folder=tmp_path / "programs", **options)


def cache() -> Cache:
    return Cache(np.zeros((5, 3), np.float32), np.ones(3, np.float32))


def test_buffers_are_updated_in_place_and_an_input_may_be_donated(make_backend):
    backend = make_backend()
    x, held = backend.to_device(X), backend.to_device(cache())
    y = backend.compile(layer, donate="x")(x, ROW, held, factor=2.0)
    assert y is x
    np.testing.assert_array_equal(np.asarray(y), 2 * X)
    np.testing.assert_array_equal(np.asarray(held.k_ZD)[ROW], X)
    np.testing.assert_array_equal(np.asarray(held.k_ZD)[[0, 2, 3]], 0)


def test_an_input_that_is_not_donated_is_unchanged(make_backend):
    backend = make_backend()
    x, program = backend.to_device(X), backend.compile(counted)
    sums = [program(x) for _ in range(3)]  # run again, as a step that overflowed
    for sum_D, doubled in sums:
        np.testing.assert_array_equal(np.asarray(sum_D), X.sum(axis=0))
        np.testing.assert_array_equal(np.asarray(doubled), 2 * X)
    np.testing.assert_array_equal(np.asarray(x), X)


def test_an_output_that_is_still_in_use_is_not_overwritten(make_backend):
    program = make_backend().compile(counted)
    sums = [program(X + n)[0] for n in range(4)]
    for n, sum_D in enumerate(sums):
        np.testing.assert_array_equal(np.asarray(sum_D), (X + n).sum(axis=0))


def test_device_memory_does_not_grow(make_backend):
    backend = make_backend()
    program = backend.compile(counted)
    for n in range(20):
        program(X + n)
    assert sum(map(len, backend._memory._unused.values())) == 3


def test_updated_buffers_must_be_on_the_device(make_backend):
    with pytest.raises(TypeError, match=r"cache\.k_ZD: updated in place, but not on the device"):
        make_backend().compile(layer)(X, ROW, cache(), factor=2.0)


def test_a_loaded_program_refuses_a_buffer_on_the_host_too(make_backend):
    """Its key says nothing of where arrays are: the writes would be lost in silence."""
    backend = make_backend()
    program = backend.compile(layer)
    program(X, ROW, backend.to_device(cache()), factor=2.0)
    with pytest.raises(TypeError, match=r"cache\.k_ZD: updated in place, but not on the device"):
        program(X, ROW, cache(), factor=2.0)


def test_skip_compile_refuses_missing_programs_and_runs_cached_ones(make_backend):
    with pytest.raises(ValueError, match=r"program counted-\w+ .* is missing, and compilation is"):
        make_backend(skip_compile=True).compile(counted)(X)
    make_backend().compile(counted)(X)
    sum_D, _ = make_backend(skip_compile=True).compile(counted)(X)
    np.testing.assert_array_equal(np.asarray(sum_D), X.sum(axis=0))


def test_a_neff_that_the_runtime_refuses_is_named(make_backend, tmp_path, monkeypatch):
    from mimo_v2_flash.execution import program_builder

    monkeypatch.setattr(program_builder.NeuronCompiler, "__call__", lambda *_: b"nonsense")
    message = r"the Neuron runtime does not load .*/counted-\w+/program\.neff: .*NEFF_VERSION"
    with pytest.raises(OSError, match=message):
        make_backend().compile(counted)(X)


def test_a_program_that_fails_is_named(make_backend, monkeypatch):
    from spike import _spike

    def fail(*_: object) -> None:
        raise _spike.SpikeRuntimeError("NRT_EXEC_HW_ERR_HBM_UE")

    program = make_backend().compile(counted)
    program(X)
    monkeypatch.setattr(_spike, "_run", fail)
    message = r"the Neuron runtime does not run counted-\w+: NRT_EXEC_HW_ERR_HBM_UE"
    with pytest.raises(OSError, match=message):
        program(X)


def test_too_few_cores_are_refused_before_anything_is_made(make_backend, monkeypatch, tmp_path):
    monkeypatch.delenv(CORE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("STAND_IN_CORES", "2")
    with pytest.raises(OSError, match="4 ranks on this machine need a NeuronCore each, 2 are"):
        make_backend()
    assert not (tmp_path / "programs").exists()


def test_a_runtime_that_does_not_start_is_an_error(make_backend, monkeypatch):
    import spike

    spike.get_spike_singleton.cache_clear()
    monkeypatch.setenv(CORE, "3")
    monkeypatch.setenv("STAND_IN_CORES", "2")
    with pytest.raises(OSError, match="the Neuron runtime does not start: Failed to initialize"):
        make_backend()


def test_100_greedy_tokens_of_ragged_prompts_are_those_of_numpy(make_backend):
    model = tiny()
    prompts = [random_tokens(model, 37).tolist(), random_tokens(model, 5, seed=3).tolist()]
    options = {"max_new_tokens": 100, "eos_token_id": []}
    expected = running(model).generate(prompts, **options)
    ours = running(model, backend=make_backend(), max_step=16)
    assert ours.generate(prompts, **options) == expected
    again = running(model, backend=make_backend(skip_compile=True), max_step=16)
    assert again.generate(prompts, **options) == expected


def test_known_prefixes_and_answers_are_copied_on_the_device(make_backend):
    model = tiny(Recipe(layers=Recipe().layers[:2]))
    prompt, params = random_tokens(model, 70).tolist(), SamplingParams(max_tokens=4, n=2, seed=1)

    def answers(backend) -> tuple[list[list[int]], int]:
        engine = Engine(running(model, backend=backend, max_length=80, max_step=40), 2)
        with engine:
            first = engine.submit(prompt[:65], params)
            tokens = [each.tokens for each in engine.run()[first].answers]
            second = engine.submit(prompt, params)
            sequence = engine._scheduler.requests[second].sequences[0]
            tokens += [each.tokens for each in engine.run()[second].answers]
            return tokens, sequence.reused

    assert answers(make_backend()) == answers(NumpyBackend())
    assert answers(make_backend(skip_compile=True))[1] == 64
