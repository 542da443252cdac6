"""Fields of a record, from its class body: name, type, default and the comment behind them."""

import ast
from collections.abc import Iterable
from typing import NamedTuple

from .markdown import code

__all__ = ["Field", "field_list", "fields_of"]


class Field(NamedTuple):
    """A field; `default` is empty if there is none, and `meaning` without a comment."""

    name: str
    kind: str
    default: str
    meaning: str


def fields_of(node: ast.ClassDef, source: str) -> list[Field]:
    """Return the fields of a class, in their order."""
    lines = source.splitlines()
    return [
        Field(
            ast.unparse(field.target),
            ast.unparse(field.annotation),
            "" if field.value is None else ast.unparse(field.value),
            lines[(field.end_lineno or field.lineno) - 1].partition("  # ")[2],
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_")
    ]


def field_list(fields: Iterable[Field]) -> str:
    """Return the list of fields, as it stands below a class."""
    lines = [f"- `{field.name}` : {code(field.kind)}{_rest(field)}" for field in fields]
    return "\n".join(["**Fields**", "", *lines, "", ""]) if lines else ""


def _rest(field: Field) -> str:
    parts = [f"default {code(field.default)}" if field.default else "", field.meaning]
    return "".join(f", {part}" for part in parts if part)
