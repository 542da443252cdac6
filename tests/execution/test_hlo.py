"""Shapes of a module in words and numbers."""

import numpy as np
import pytest

from mimo_v2_flash.execution.hlo import (
    ELEMENTWISE,
    VIEWS,
    ArrayShape,
    array_shapes,
    entry_computation,
)
from tests.support.traced_costs import traced

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy


def two(x):
    return np.sum(x, axis=0).astype(np.float16), x > 0


def test_an_entry_and_its_shapes_are_read():
    module = traced(two, x=np.ones((3, 5), np.float32)).module
    entry = entry_computation(module)
    assert entry.name == "main"
    (taken,) = (i for i in entry.instructions if i.opcode == "parameter")
    assert list(array_shapes(taken.shape)) == [ArrayShape("F32", (3, 5))]
    given = list(array_shapes(entry.program_shape.result))
    assert given == [ArrayShape("F16", (5,)), ArrayShape("PRED", (3, 5))]
    assert [(part.elements, part.item, part.nbytes) for part in given] == [(5, 2, 10), (15, 1, 15)]


def test_a_scalar_is_one_element():
    assert ArrayShape("BF16", ()).nbytes == 2


def test_an_operator_is_of_one_kind():
    assert not ELEMENTWISE & VIEWS
