"""Calls of programs: arguments by parameter name, cache keys, aliased buffers, outputs."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from mimo_v2_flash.execution.program_call import ProgramCall, check_on_device, fill_outputs


class Cache(NamedTuple):
    """A pytree."""

    k: Any
    v: Any


X, K, V = (np.full(length, length, np.float32) for length in (1, 2, 3))
CACHE = Cache(K, V)
TRACED: Any = SimpleNamespace(
    inputs=("x", "cache.k"),
    in_place={0: "x", 1: "cache.k"},
    output_tree=(1, Cache(0, 1)),
    donated="x",
)


def layer(x, cache, *, kv_length: int): ...


def other(x, cache, *, kv_length: int): ...


def test_arguments_are_bound_to_their_names_whether_positional_or_keyword():
    one, same = (
        ProgramCall.of(layer, None, X, CACHE, kv_length=4),
        ProgramCall.of(layer, None, kv_length=4, cache=CACHE, x=X),
    )
    assert list(one.arguments) == list(same.arguments) == ["x", "cache", "kv_length"]
    assert list(one.arrays) == ["x", "cache.k", "cache.v"]
    assert one.arrays["cache.v"] is V


def test_a_program_depends_on_everything_but_values():
    key = ProgramCall.of(layer, None, X, CACHE, kv_length=4).key
    assert key == ProgramCall.of(layer, None, X + 1, CACHE, kv_length=4).key
    others = [
        ProgramCall.of(layer, None, X, CACHE, kv_length=5).key,
        ProgramCall.of(layer, None, K, CACHE, kv_length=4).key,
        ProgramCall.of(layer, None, X.astype(np.int32), CACHE, kv_length=4).key,
        ProgramCall.of(other, None, X, CACHE, kv_length=4).key,
        ProgramCall.of(layer, "x", X, CACHE, kv_length=4).key,
    ]
    assert len({key, *others}) == 6


def test_updated_buffers_must_be_on_the_device_except_a_donated_input():
    check_on_device(TRACED, {"x": 1.0, "cache.k": X}, np.ndarray)
    with pytest.raises(TypeError, match=r"cache\.k: updated in place, but not on the device"):
        check_on_device(TRACED, {"x": X, "cache.k": 1.0}, np.ndarray)


def test_outputs_fill_the_pytree_that_the_function_returns():
    assert fill_outputs(TRACED, ["a", "b"]) == ("b", Cache("a", "b"))
