"""Pytrees: nested tuples, dataclasses and dictionaries of arrays, as in JAX."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

__all__ = ["tree_arrays", "tree_leaves", "tree_map", "tree_replace", "tree_signature"]


def tree_map(
    function: Callable[[str, Any], Any],
    tree: Any,
    path: str = "",
    leaf: type | tuple[type, ...] = (),
) -> Any:
    """Return the pytree `tree` with `function(path, leaf)` in place of every leaf.

    Tuples, named or not, dataclasses and dictionaries are nodes, unless they are of type `leaf`;
    everything else is a leaf. A leaf's path joins the names or numbers of the branches to it by
    dots.

    Parameters
    ----------
    function : callable
        Function of the path and the leaf.
    tree : object
        The pytree.
    path : str
        Path of `tree` itself.
    leaf : type or tuple of types
        Types whose values are leaves.
    """
    branches = None if isinstance(tree, leaf) else _branches(tree)
    if branches is None:
        return function(path, tree)
    changed = {
        name: tree_map(function, branch, f"{path}.{name}" if path else name, leaf)
        for name, branch in branches.items()
    }
    if isinstance(tree, dict):
        return changed
    if is_dataclass(tree):
        return replace(tree, **changed)  # type: ignore[type-var]
    return tree._make(changed.values()) if hasattr(tree, "_make") else tuple(changed.values())


def tree_arrays(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the arrays of a pytree, its leaves that have a dtype, by path and in order."""
    return {path: leaf for path, leaf in tree_leaves(tree, path).items() if hasattr(leaf, "dtype")}


def tree_replace(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """Return the pytree `tree` with each of `arrays`, keyed by path, in its place."""
    return tree_map(arrays.get, tree)


def tree_signature(tree: Any) -> tuple[Any, ...]:
    """Return the paths, shapes and dtypes of a pytree's arrays, and the values of other leaves."""
    return tuple(
        (path, tuple(leaf.shape), str(leaf.dtype)) if hasattr(leaf, "dtype") else (path, leaf)
        for path, leaf in tree_leaves(tree).items()
    )


def tree_leaves(tree: Any, path: str = "", leaf: type | tuple[type, ...] = ()) -> dict[str, Any]:
    """Return the leaves of a pytree by path and in order; nodes of type `leaf` count as leaves.

    Parameters
    ----------
    tree : object
        The pytree.
    path : str
        Path of `tree` itself.
    leaf : type or tuple of types
        Types whose values are leaves.
    """
    branches = None if isinstance(tree, leaf) else _branches(tree)
    if branches is None:
        return {path: tree}
    leaves: dict[str, Any] = {}
    for name, branch in branches.items():
        leaves |= tree_leaves(branch, f"{path}.{name}" if path else name, leaf)
    return leaves


def _branches(tree: Any) -> dict[str, Any] | None:
    if isinstance(tree, dict):
        return tree
    if isinstance(tree, tuple):
        names = getattr(tree, "_fields", range(len(tree)))
        return {str(name): branch for name, branch in zip(names, tree, strict=True)}
    if is_dataclass(tree) and not isinstance(tree, type):
        return {field.name: getattr(tree, field.name) for field in fields(tree)}
    return None
