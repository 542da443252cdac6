"""Pytrees are flattened into arrays by path, and rebuilt."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.execution.pytree import tree_arrays, tree_map, tree_replace, tree_signature


class Pair(NamedTuple):
    """A named tuple as a pytree node."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Stored:
    """A dataclass of an array and a number, such as `BlockScaled`."""

    code: Any
    height: int


A, B, C, D = (np.full(length, length, np.float32) for length in (1, 2, 3, 4))
TREE = {"x": A, "w": Pair((B, Stored(C, 64)), D), "kv_length": 7}
PATHS = ["x", "w.left.0", "w.left.1.code", "w.right"]


def test_arrays_have_their_paths_in_order():
    assert list(tree_arrays(TREE)) == PATHS
    assert [id(array) for array in tree_arrays(TREE).values()] == [
        id(array) for array in (A, B, C, D)
    ]


def test_a_lone_array_is_a_pytree_too():
    assert list(tree_arrays(A)) == [""]
    assert tree_replace(A, {"": B}) is B


def test_other_arrays_take_their_places():
    replaced = tree_replace(TREE, {"w.left.1.code": A, "x": D})
    assert replaced == {"x": D, "w": Pair((B, Stored(A, 64)), D), "kv_length": 7}
    assert TREE["x"] is A


def test_every_leaf_is_visited_with_its_path():
    paths = tree_map(lambda path, _: path, TREE)
    assert paths["w"] == Pair(("w.left.0", Stored("w.left.1.code", "w.left.1.height")), "w.right")
    assert paths["kv_length"] == "kv_length"


def test_a_signature_is_all_but_the_values_of_arrays():
    def changed(**parts):
        return tree_signature(TREE | parts)

    same = tree_signature(TREE)
    assert hash(same) == hash(changed(x=A + 1))
    assert changed(x=A + 1) == same
    others = [
        changed(x=B),
        changed(x=A.astype(np.int32)),
        changed(kv_length=8),
        changed(w=Pair((B, Stored(C, 128)), D)),
        changed(w=Pair((B, Stored(C, 64), A), D)),
    ]
    assert same not in others
    assert len(set(others)) == len(others)
