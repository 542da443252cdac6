"""Page of the configuration: every field of MiMoConfig, with its value in MiMo-V2-Flash."""

import ast
from pathlib import Path

from mimo_v2_flash import config

from .docstring import docstring_text
from .fields import fields_of
from .markdown import code, table

__all__ = ["config_page"]

COLUMNS = ("field", "type", "MiMo-V2-Flash", "meaning")


def config_page() -> str:
    """Return the page."""
    source = Path(config.__file__).read_text()
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    node = classes["MiMoConfig"]
    rows = [
        (f"`{field.name}`", code(field.kind), code(_short(field.default)), field.meaning)
        for field in fields_of(node, source)
    ]
    text = docstring_text(ast.get_docstring(node) or "")
    return f"# Fields of config.json\n\n{text}\n{table(COLUMNS, rows)}"


def _short(default: str) -> str:
    """Return a default, of a pattern of layers its beginning."""
    return default if len(default) < 40 else f"{default[:32]}..."
