"""Records of arrays as flat, named arrays: what a program takes, and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

__all__ = ["tree_arrays", "tree_map", "tree_replace", "tree_signature"]


def tree_map(function: Callable[[str, Any], Any], record: Any, path: str = "") -> Any:
    """Return `record` with `function(path, leaf)` in place of every leaf.

    Tuples, named or not, dataclasses and dictionaries are records; everything else is a leaf. A
    leaf's path is the names, or the numbers, that lead to it, joined by dots.
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
    """Return the arrays of `record` by their paths, in order: leaves that have a dtype."""
    return {path: leaf for path, leaf in _leaves(record).items() if hasattr(leaf, "dtype")}


def tree_replace(record: Any, found: Mapping[str, Any]) -> Any:
    """Return `record` with the arrays `found` at their paths in place of its own."""
    return tree_map(found.get, record)


def tree_signature(record: Any) -> tuple[Any, ...]:
    """Return what a program depends on: the arrays' paths, shapes and dtypes, all other values."""
    return tuple(
        (path, tuple(leaf.shape), str(leaf.dtype)) if hasattr(leaf, "dtype") else (path, leaf)
        for path, leaf in _leaves(record).items()
    )


def _leaves(record: Any, path: str = "") -> dict[str, Any]:
    branches = _branches(record)
    if branches is None:
        return {path: record}
    found: dict[str, Any] = {}
    for name, branch in branches.items():
        found |= _leaves(branch, f"{path}.{name}" if path else name)
    return found


def _branches(record: Any) -> dict[str, Any] | None:
    if isinstance(record, dict):
        return record
    if isinstance(record, tuple):
        names = getattr(record, "_fields", range(len(record)))
        return {str(name): branch for name, branch in zip(names, record, strict=True)}
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: getattr(record, field.name) for field in fields(record)}
    return None
