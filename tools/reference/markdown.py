"""Pieces of Markdown: tables, and code whose characters stay what they are."""

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "escape_html", "table"]

TAG = re.compile(r"(`[^`]*`)|<(?=[A-Za-z/!])")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown of one line."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def code(text: str) -> str:
    """Return a span of code, which may have backticks in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def escape_html(text: str) -> str:
    """Return a text in which nothing outside of code spans is a tag."""
    return TAG.sub(lambda match: match[1] or "&lt;", text)
