"""Shapes of a module in words and numbers."""

import numpy as np
import pytest

from mimo_v2_flash.execution.hlo import ELEMENTWISE, VIEWS, Part, entry_of, parts_of
from tests.support.traced_costs import traced

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy


def two(x):
    return np.sum(x, axis=0).astype(np.float16), x > 0


def test_an_entry_and_its_shapes_are_read():
    module = traced(two, x=np.ones((3, 5), np.float32)).module
    entry = entry_of(module)
    assert entry.name == "main"
    (taken,) = (i for i in entry.instructions if i.opcode == "parameter")
    assert list(parts_of(taken.shape)) == [Part("F32", (3, 5))]
    given = list(parts_of(entry.program_shape.result))
    assert given == [Part("F16", (5,)), Part("PRED", (3, 5))]
    assert [(part.elements, part.item, part.nbytes) for part in given] == [(5, 2, 10), (15, 1, 15)]


def test_a_scalar_is_one_element():
    assert Part("BF16", ()).nbytes == 2


def test_an_operator_is_of_one_kind():
    assert not ELEMENTWISE & VIEWS
