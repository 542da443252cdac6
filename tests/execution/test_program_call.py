"""A call is its function and its arguments by name, however they were given."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from mimo_v2_flash.execution.program_call import ProgramCall, check_on_device, fill_outputs


class Cache(NamedTuple):
    """A record."""

    k: Any
    v: Any


X, K, V = (np.full(length, length, np.float32) for length in (1, 2, 3))
CACHE = Cache(K, V)
TRACED: Any = SimpleNamespace(
    inputs=("x", "cache.k"), in_place={0: "x", 1: "cache.k"}, output_tree=(1, Cache(0, 1))
)


def layer(x, cache, *, filled: int): ...


def other(x, cache, *, filled: int): ...


def test_arguments_have_their_names_however_they_are_given():
    one, same = (
        ProgramCall.of(layer, X, CACHE, filled=4),
        ProgramCall.of(layer, filled=4, cache=CACHE, x=X),
    )
    assert list(one.arguments) == list(same.arguments) == ["x", "cache", "filled"]
    assert list(one.arrays) == ["x", "cache.k", "cache.v"]
    assert one.arrays["cache.v"] is V


def test_a_program_depends_on_everything_but_values():
    key = ProgramCall.of(layer, X, CACHE, filled=4).key
    assert key == ProgramCall.of(layer, X + 1, CACHE, filled=4).key
    others = [
        ProgramCall.of(layer, X, CACHE, filled=5).key,
        ProgramCall.of(layer, K, CACHE, filled=4).key,
        ProgramCall.of(layer, X.astype(np.int32), CACHE, filled=4).key,
        ProgramCall.of(other, X, CACHE, filled=4).key,
    ]
    assert len({key, *others}) == 5


def test_what_is_written_must_be_of_the_backend_but_for_the_stream():
    check_on_device(TRACED, {"x": 1.0, "cache.k": X}, np.ndarray)
    with pytest.raises(TypeError, match=r"cache\.k: written in place, but not placed"):
        check_on_device(TRACED, {"x": X, "cache.k": 1.0}, np.ndarray)


def test_an_answer_is_the_record_that_the_function_returns():
    assert fill_outputs(TRACED, ["a", "b"]) == ("b", Cache("a", "b"))
