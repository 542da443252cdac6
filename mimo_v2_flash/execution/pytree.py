"""Pytrees: nested tuples, dataclasses and dictionaries of arrays, as in JAX."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

__all__ = ["tree_arrays", "tree_map", "tree_replace", "tree_signature"]


def tree_map(function: Callable[[str, Any], Any], record: Any, path: str = "") -> Any:
    """Return the pytree `record` with `function(path, leaf)` in place of every leaf.

    Tuples, named or not, dataclasses and dictionaries are nodes; everything else is a leaf. A
    leaf's path joins the names or numbers of the branches to it by dots.
    """
    branches = _branches(record)
    if branches is None:
        return function(path, record)
    changed = {
        name: tree_map(function, branch, f"{path}.{name}" if path else name)
        for name, branch in branches.items()
    }
    if isinstance(record, dict):
        return changed
    if is_dataclass(record):
        return replace(record, **changed)  # type: ignore[type-var]
    return record._make(changed.values()) if hasattr(record, "_make") else tuple(changed.values())


def tree_arrays(record: Any) -> dict[str, Any]:
    """Return the arrays of a pytree, its leaves that have a dtype, by path and in order."""
    return {path: leaf for path, leaf in _leaves(record).items() if hasattr(leaf, "dtype")}


def tree_replace(record: Any, arrays: Mapping[str, Any]) -> Any:
    """Return the pytree `record` with each of `arrays`, keyed by path, in its place."""
    return tree_map(arrays.get, record)


def tree_signature(record: Any) -> tuple[Any, ...]:
    """Return the paths, shapes and dtypes of a pytree's arrays, and the values of other leaves."""
    return tuple(
        (path, tuple(leaf.shape), str(leaf.dtype)) if hasattr(leaf, "dtype") else (path, leaf)
        for path, leaf in _leaves(record).items()
    )


def _leaves(record: Any, path: str = "") -> dict[str, Any]:
    branches = _branches(record)
    if branches is None:
        return {path: record}
    leaves: dict[str, Any] = {}
    for name, branch in branches.items():
        leaves |= _leaves(branch, f"{path}.{name}" if path else name)
    return leaves


def _branches(record: Any) -> dict[str, Any] | None:
    if isinstance(record, dict):
        return record
    if isinstance(record, tuple):
        names = getattr(record, "_fields", range(len(record)))
        return {str(name): branch for name, branch in zip(names, record, strict=True)}
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: getattr(record, field.name) for field in fields(record)}
    return None
