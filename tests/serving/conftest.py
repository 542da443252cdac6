"""The shipped model as it is served, loaded once for each file of tests."""

import pytest

from tests.support.served import served_tiny


@pytest.fixture(scope="module")
def served():
    """Return the shipped model, with its tokenizer."""
    return served_tiny()
