"""Runtime options: backends, dtypes, fixed sizes, and the memory check before a backend opens."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli.parallel_options import SINGLE_RANK, RankSetup
from mimo_v2_flash.cli.runtime_options import (
    FixedLengthModel,
    RuntimeOptions,
    add_runtime_arguments,
    check_memory,
)
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.tiny import random_tokens, running, tiny

MODEL = tiny()


class AnotherBackend(NumpyBackend):
    """A stand-in for a backend of compiled programs."""

    def __init__(self, **options) -> None:
        self.options = options


@pytest.fixture
def opened(monkeypatch):
    """Return the backends that have been opened so far."""
    made: list[AnotherBackend] = []

    def get_backend(name: str, **options) -> AnotherBackend:
        made.append(AnotherBackend(name=name, **options))
        return made[-1]

    monkeypatch.setattr("mimo_v2_flash.cli.runtime_options.get_backend", get_backend)
    return made


def model_at(runtime: RuntimeOptions, setup: RankSetup = SINGLE_RANK, host=None):
    return runtime.model(MODEL.weights, MODEL.config, setup, host=host or NumpyBackend())


def runtime_of(*arguments: str) -> RuntimeOptions:
    parser = argparse.ArgumentParser()
    add_runtime_arguments(parser)
    options = vars(parser.parse_args(arguments)) | {"prompt": "a"}
    runtime = RuntimeOptions.pop_from(options)
    assert options == {"prompt": "a"}
    return runtime


def test_nothing_said_is_numpy_as_it_was(opened):
    assert runtime_of() == RuntimeOptions()
    host = NumpyBackend()
    model = model_at(RuntimeOptions(), host=host)
    assert (type(model), model.max_step, opened) == (type(running(MODEL)), 512, [])
    assert model_at(RuntimeOptions(chunk=7)).max_step == 7


def test_every_option_arrives(opened):
    sizes = "--context", "40", "--chunk", "9", "--lnc", "1", "--cache-dtype", "float32"
    runtime = runtime_of("--backend", "neuron", *sizes, "--programs", "/p", "--skip-compile")
    model = model_at(runtime)
    assert (model.max_step, model.context) == (9, 40)
    assert (runtime.kv_dtype, runtime.residual_dtype) == (np.float32, ml_dtypes.bfloat16)
    options = {"folder": Path("/p"), "lnc": 1, "skip_compile": True, "group": SINGLE_RANK.group}
    assert [backend.options for backend in opened] == [{"name": "neuron"} | options]


@pytest.mark.parametrize(
    ("backend", "dtype"), [("xla", np.float32), ("neuron", ml_dtypes.bfloat16)]
)
def test_dtypes_are_those_of_the_backend(backend, dtype):
    runtime = RuntimeOptions(backend)
    assert runtime.kv_dtype == runtime.residual_dtype == dtype


def test_programs_are_for_one_context_whatever_is_asked(opened):
    model = model_at(RuntimeOptions("xla", context=40))
    assert isinstance(model, FixedLengthModel)
    assert {model.new_cache(1, length).max_length for length in (1, 17, 40)} == {40}
    assert model.new_cache(1, 3, ml_dtypes.bfloat16).layers[0][0].dtype == ml_dtypes.bfloat16
    with pytest.raises(ValueError, match="max_length 41 is larger than --context 40"):
        model.generate([[1] * 40], max_new_tokens=2)
    kwargs = {"input_ids": random_tokens(MODEL, 1, 20), "max_new_tokens": 20}
    assert model.generate(**kwargs) == running(MODEL).generate(**kwargs)


def test_the_context_is_the_models_where_that_is_short(opened):
    assert RuntimeOptions("xla").longest(MODEL.config) == 4096
    assert RuntimeOptions("xla").longest(MiMoConfig(max_position_embeddings=77)) == 77
    assert RuntimeOptions("xla", context=5).longest(MODEL.config) == 5
    assert RuntimeOptions().longest(MODEL.config) == MODEL.config.max_position_embeddings
    assert model_at(RuntimeOptions("xla", context=60)).max_step == 60


def test_xla_does_not_run_on_several_processes(opened):
    setup = RankSetup(SimpleNamespace(size=2, rank=0), ParallelConfig(2, 2, 1))
    with pytest.raises(
        ValueError, match="--backend xla runs on one rank, not on several processes"
    ):
        model_at(RuntimeOptions("xla"), setup)


WORKLOAD = Workload(1, 4096, 128, "fp8", ml_dtypes.bfloat16, ml_dtypes.bfloat16)


@pytest.mark.parametrize(
    ("plan", "lnc"), [(ParallelConfig(32, 32, 1), 2), (ParallelConfig(64, 64, 1), 1)], ids=str
)
def test_a_plan_that_fits_into_a_core_passes(plan, lnc):
    check_memory(MiMoConfig(), plan, WORKLOAD, lnc)


@pytest.mark.parametrize(
    ("plan", "lnc"), [(ParallelConfig(8, 8, 1), 2), (ParallelConfig(16, 16, 1), 1)], ids=str
)
def test_a_plan_that_does_not_is_refused(plan, lnc):
    with pytest.raises(ValueError, match=rf"--lnc {lnc}: It does not fit: .* more than {12 * lnc}"):
        check_memory(MiMoConfig(), plan, WORKLOAD, lnc)


def test_the_fullest_device_counts(monkeypatch):
    plan, workload = ParallelConfig(1, 1, 2), Workload(3, 40, 8)
    least, most = sorted(device.total for device in devices(MODEL.config, plan, workload))
    monkeypatch.setattr("mimo_v2_flash.cli.runtime_options.MEMORY", {2: (least + most) // 2})
    with pytest.raises(ValueError, match="It does not fit"):
        check_memory(MODEL.config, plan, workload, 2)


def test_what_does_not_fit_is_refused_before_a_backend_is_opened(opened, monkeypatch):
    monkeypatch.setattr("mimo_v2_flash.cli.runtime_options.MEMORY", {2: 1000})
    with pytest.raises(ValueError, match="It does not fit"):
        model_at(RuntimeOptions("neuron"))
    assert model_at(RuntimeOptions("xla"))
    assert [backend.options["name"] for backend in opened] == ["xla"]
