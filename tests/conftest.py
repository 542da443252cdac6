"""Hypothesis profiles: the same examples on every run and every machine; what many tests share."""

import signal
from pathlib import Path

import pytest
from hypothesis import Phase, settings

settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=30, print_blob=True, database=None
)
# A mutant only has to be noticed: its failing example is not shrunk.
settings.register_profile(
    "mutants", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("default")
# A job in a shell's background ignores it, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory) -> Path:
    """Return a folder as the hub has it, which no test changes: tests copy it."""
    from tests.support.hub_checkpoint import RECIPE, write_hub_checkpoint
    from tests.support.tiny import tiny

    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub")).folder


@pytest.fixture(scope="session")
def tokenizer():
    """Return the tokenizer of the shipped model."""
    from mimo_v2_flash.text.tokenizer import load_tokenizer

    return load_tokenizer("examples/mimo-tiny")
