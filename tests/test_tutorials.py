"""The tutorials' code is what a reader gets: their files are kept, and their numbers are right."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.doc_blocks import blocks_of

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "tutorials"
NUMBER = re.compile(r"-?\d+\.\d+")
PRINTED = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
LAST_DIGIT = 0.02  # that another processor's sums may change


def assert_printed(printed: str, expected: str) -> None:
    """Assert that texts are equal but for the last digits of their numbers."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
    numbers, shown = (list(map(float, NUMBER.findall(text))) for text in (printed, expected))
    np.testing.assert_allclose(numbers, shown, rtol=0, atol=LAST_DIGIT)


def test_the_blocks_of_the_kernel_are_its_file():
    blocks = blocks_of((PAGES / "kernel.md").read_text())
    source = "\n\n".join(block.source for block in blocks if block.language == "python")
    assert source == (ROOT / "tests" / "test_tutorial_kernel.py").read_text()
    assert len(source.splitlines()) <= 60


def test_the_tour_prints_what_its_page_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace: dict[str, Any] = {}
    outputs = 0
    for source, expected in PRINTED.findall((PAGES / "token.md").read_text()):
        printed = StringIO()
        with redirect_stdout(printed):
            exec(source, namespace)
        assert_printed(printed.getvalue(), expected)
        outputs += bool(expected)
    assert outputs == 8
    assert "False" not in (PAGES / "token.md").read_text()


@pytest.mark.parametrize("printed", ["a 1.25 [1]\n", "a 1.20 [2]\n", "b 1.20 [1]\n", "a 1.20\n"])
def test_another_text_or_number_is_seen(printed):
    assert_printed("a 1.21 [1]\n", "a 1.20 [1]\n")
    with pytest.raises(AssertionError):
        assert_printed(printed, "a 1.20 [1]\n")
