"""Runtime options become the keywords of `load_model`; what is not said is left to it."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from mimo_v2_flash.cli.runtime_options import COMPILE_CACHE, RuntimeOptions, add_runtime_arguments
from mimo_v2_flash.execution import NumpyBackend

HOST = NumpyBackend()
UNSAID: dict[str, Any] = dict.fromkeys(
    ("max_length", "max_step", "cache_dtype", "activation_dtype", "layers_per_program")
)
UNSAID |= {"compute": "float32"}


def runtime_of(*arguments: str) -> RuntimeOptions:
    parser = argparse.ArgumentParser()
    add_runtime_arguments(parser)
    options = vars(parser.parse_args(arguments)) | {"prompt": "a"}
    runtime = RuntimeOptions.pop_from(options)
    assert options == {"prompt": "a"}
    return runtime


def test_nothing_said_is_numpy_as_the_command_has_it():
    assert runtime_of() == RuntimeOptions()
    assert runtime_of().keywords(HOST) == UNSAID | {"backend": HOST}


def test_the_context_is_that_of_programs_alone():
    assert runtime_of("--context", "9", "--chunk", "7").keywords(HOST) == UNSAID | {
        "backend": HOST,
        "max_step": 7,
    }
    assert runtime_of("--backend", "xla", "--context", "9").keywords(HOST) == UNSAID | {
        "backend": "xla",
        "max_length": 9,
    }


@pytest.mark.parametrize("folder_option", ["--programs", "--compile-cache"])
def test_every_option_arrives(folder_option):
    sizes = "--context", "40", "--chunk", "9", "--lnc", "1", "--cache-dtype", "float32"
    dtype = "--stream-dtype", "bfloat16", "--compute", "bfloat16"
    runtime = runtime_of(
        *("--backend", "neuron", *sizes, *dtype, folder_option, "/p", "--skip-compile"),
        *("--layers-per-program", "6"),
    )
    assert runtime.keywords(HOST) == {
        "backend": "neuron",
        "max_length": 40,
        "max_step": 9,
        "cache_dtype": "float32",
        "activation_dtype": "bfloat16",
        "compute": "bfloat16",
        "layers_per_program": 6,
        "folder": Path("/p"),
        "lnc": 1,
        "skip_compile": True,
    }


def test_programs_are_in_the_home_folder_if_nothing_is_said():
    assert runtime_of("--backend", "neuron").keywords(HOST)["folder"] == COMPILE_CACHE


def test_an_expert_cache_and_its_policy_arrive():
    runtime = runtime_of("--expert-cache", "400kB", "--expert-cache-policy", "lru")
    keywords = runtime.keywords(HOST)
    assert (keywords["expert_cache"], keywords["expert_cache_policy"]) == ("400kB", "lru")
