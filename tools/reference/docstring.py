"""Docstrings in numpydoc's form as Markdown: sections of names become lists."""

import textwrap
from collections.abc import Iterator

from numpydoc.docscrape import NumpyDocString, Parameter

from .markdown import escape_html

__all__ = ["docstring_text"]

LISTS = ("Parameters", "Returns", "Yields", "Attributes", "Raises")
PLAIN = ("Summary", "Extended Summary", "Notes", "Examples")


def docstring_text(docstring: str) -> str:
    """Return the Markdown of a docstring."""
    return "\n\n".join([*_paragraphs(docstring), ""])


def _paragraphs(docstring: str) -> Iterator[str]:
    parsed = NumpyDocString(docstring)
    plain = {name: textwrap.dedent("\n".join(parsed[name])).strip() for name in PLAIN}
    yield from (escape_html(plain[name]) for name in PLAIN[:2] if plain[name])
    for name in filter(parsed.__getitem__, LISTS):
        yield f"**{name}**"
        yield "\n".join(map(_entry, parsed[name]))
    if plain["Notes"]:
        yield f"**Notes**\n\n{escape_html(plain['Notes'])}"
    if plain["Examples"]:
        yield f"**Examples**\n\n```pycon\n{plain['Examples']}\n```"


def _entry(parameter: Parameter) -> str:
    """Return an item of a list: names, type and what they are."""
    names = " : ".join(f"`{part}`" for part in (parameter.name, parameter.type) if part)
    meaning = textwrap.indent(escape_html("\n".join(parameter.desc).strip()), "  ")
    return f"- {names}\n\n{meaning}\n" if meaning else f"- {names}\n"
