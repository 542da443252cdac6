"""A runner of the shipped model, for each file of tests."""

import pytest

from mimo_v2_flash.runner import Runner, Which


@pytest.fixture(scope="module")
def runner():
    """Return a runner that has one answer at a time."""
    with Runner(Which.Plain("examples/mimo-tiny"), max_seqs=1, max_length=256) as runner:
        yield runner
