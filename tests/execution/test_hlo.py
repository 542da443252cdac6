"""Readers of HLO modules: the entry computation and its shapes."""

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


def two_outputs(x):
    return np.sum(x, axis=0).astype(np.float16), x > 0


def test_an_entry_and_its_shapes_are_read():
    module = traced(two_outputs, x=np.ones((3, 5), np.float32)).module
    entry = entry_computation(module)
    assert entry.name == "main"
    (parameter,) = (i for i in entry.instructions if i.opcode == "parameter")
    assert list(array_shapes(parameter.shape)) == [ArrayShape("F32", (3, 5))]
    outputs = list(array_shapes(entry.program_shape.result))
    assert outputs == [ArrayShape("F16", (5,)), ArrayShape("PRED", (3, 5))]
    sizes = [(shape.elements, shape.itemsize, shape.nbytes) for shape in outputs]
    assert sizes == [(5, 2, 10), (15, 1, 15)]


def test_a_scalar_is_one_element():
    assert ArrayShape("BF16", ()).nbytes == 2


def test_an_operator_is_of_one_kind():
    assert not ELEMENTWISE & VIEWS
