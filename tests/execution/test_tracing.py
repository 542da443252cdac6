"""Tracing a function of pytrees: input names, aliases and the output tree."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from mimo_v2_flash.kernels import ops

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy


class Buffers(NamedTuple):
    """Buffers that a program updates in place."""

    k_ZD: Any
    v_ZD: Any


def layer(x, row, buffers, *, factor: float):
    ops.put_rows(buffers.k_ZD, row, x)
    return x * np.float32(factor)


def summed(x):
    return np.sum(x, axis=0), (x * np.float32(2),)


def counted(x):
    return x + np.arange(2)


X, ROW = np.ones((2, 3), np.float32), np.array([4, 1], np.int32)
ARGUMENTS = {"x": X, "row": ROW, "buffers": Buffers(np.ones((5, 3), np.float32), X), "factor": 2.0}


def test_inputs_have_the_paths_of_the_pytree():
    from mimo_v2_flash.execution.tracing import trace

    assert trace(layer, ARGUMENTS).inputs == ("x", "row", "buffers.k_ZD", "buffers.v_ZD")


def test_updated_buffers_and_the_donated_input_are_aliased():
    from mimo_v2_flash.execution.tracing import trace

    traced = trace(layer, ARGUMENTS, donate="x")
    assert (traced.in_place, traced.donated) == ({0: "x", 1: "buffers.k_ZD"}, "x")
    assert traced.output_tree == 0
    aliases = traced.module.input_output_alias.entries
    assert [(list(a.output_shape_index), a.parameter_number) for a in aliases] == [
        ([0], 0),
        ([1], 2),
    ]


def test_nothing_is_donated_unasked_and_the_output_tree_is_kept():
    from mimo_v2_flash.execution.tracing import trace

    assert trace(layer, ARGUMENTS).in_place == {1: "buffers.k_ZD"}
    traced = trace(summed, {"x": X})
    assert (traced.in_place, traced.donated) == ({}, None)
    assert traced.output_tree == (0, (1,))


def test_a_donation_that_no_output_can_take_is_refused():
    from mimo_v2_flash.execution.tracing import trace

    with pytest.raises(ValueError, match=r"x is float32 .*the output that would take its buffer"):
        trace(summed, {"x": X}, donate="x")
    with pytest.raises(ValueError, match="program layer: factor is no array, to be donated"):
        trace(layer, ARGUMENTS, donate="factor")


def test_no_value_is_read_and_no_memory_taken():
    from mimo_v2_flash.execution.tracing import trace

    huge = np.broadcast_to(np.float32(np.nan), (1 << 20, 1 << 20))
    assert trace(summed, {"x": huge}).inputs == ("x",)


def test_what_trainium_refuses_is_refused_at_once():
    from mimo_v2_flash.execution.tracing import trace

    with pytest.raises(ValueError, match=r"program counted: .* 64-bit type S64"):
        trace(counted, {"x": np.ones(2, np.int32)})
