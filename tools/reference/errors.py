"""Page of the error messages: each that the package raises, with its exception and its module."""

import ast
from collections.abc import Iterator

from .api import PACKAGE
from .markdown import code, table

__all__ = ["Message", "errors_page", "messages"]

Message = tuple[str, str, str]
"""Message, with an expression in braces for what is filled in; exception; module."""

BEGINNING = """# Error messages

What the package raises with a message of its own, by message; `{...}` stands for what is filled
in. A command prints the message as one line behind its name, with the option as it was typed
([the command line](../command-line.md#exit-status-and-errors)).

"""


def errors_page() -> str:
    """Return the page."""
    rows = ((code(text), f"`{kind}`", f"`{place}`") for text, kind, place in sorted(messages()))
    return BEGINNING + table(("message", "exception", "module"), rows)


def messages() -> Iterator[Message]:
    """Yield every message that is written where it is raised."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = _template(node.exc.args[0])
                if text:
                    yield text, ast.unparse(node.exc.func).rpartition(".")[2], place


def _template(node: ast.expr) -> str:
    """Return the text of a string or an f-string; "" of anything else."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_part, node.values))
    return ""


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    return _template(node)
