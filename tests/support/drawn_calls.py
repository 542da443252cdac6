"""Drawn answers with tool calls of every type, and the tools that they call."""

import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.support.chat_text import tool

LETTERS = st.characters(exclude_characters="<>\r\n", exclude_categories=["Cs"])
MARKUP = ("<", ">", "</", "<b>", "&amp;", '"', "\\", "\n", " ", "\u2028", "世🙂", "\0", "null", "5")
TAGS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<function=f>", "</function>"),
    *("<parameter=p>", "</parameter>", "<|im_end|>"),
)
# What a value cannot hold: the tags that end it, and what may follow them.
ENDS = re.compile(
    r"</parameter>\s*(<parameter=[^<>\r\n]|</function>|</tool_call>)|</function>\s*</tool_call>"
    r"|</tool_call>\s*<tool_call>"
)


@cache
def json_values(text: Any) -> dict[str, Any]:
    """Return strategies of values by their JSON schema type."""
    floats = st.floats(allow_nan=False, allow_infinity=False)
    scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | floats | text(max_size=9)
    inner = st.recursive(
        scalars,
        lambda v: st.lists(v, max_size=3) | st.dictionaries(text(max_size=4), v, max_size=3),
        max_leaves=4,
    )
    return {
        "string": st.lists(st.sampled_from((*MARKUP, *TAGS)) | text(max_size=5), max_size=6).map(
            "".join
        ),
        "integer": st.integers(-(10**30), 10**30),
        "number": floats | st.integers(-99, 99),
        "boolean": st.booleans(),
        "null": st.none(),
        "array": st.lists(inner, max_size=3),
        "object": st.dictionaries(text(max_size=5), inner, max_size=3),
    }


def writable(value: str, keys: Sequence[str]) -> str:
    """Return `value` without what would end a value of one of the parameters `keys`."""
    ends = [f"<parameter={key}>" for key in keys]
    if ENDS.search(value) or any(end in value for end in ends):
        return value.replace(">", "")
    return value


KINDS = (*("string", "integer", "number", "boolean", "null", "array", "object"), ["string", "null"])


@st.composite
def calls(draw: st.DrawFn, text: Any = st.text, letters: Any = LETTERS) -> tuple[Any, Any]:
    """Return tools, and calls of them: (name, arguments) each."""
    names = draw(st.lists(st.text(letters, min_size=1, max_size=9), max_size=2, unique=True))
    tools, drawn = [], []
    for name in names:
        keys = draw(st.lists(st.text(letters, min_size=1, max_size=6), max_size=3, unique=True))
        kinds = {key: draw(st.sampled_from(KINDS)) for key in keys}
        tools.append(tool(name, {key: schema(kind) for key, kind in kinds.items()}))
        drawn.append((name, {key: draw_value(draw, kinds[key], keys, text) for key in keys}))
    return tools, draw(st.lists(st.sampled_from(drawn), max_size=3)) if drawn else []


def schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type, or of several."""
    if isinstance(kind, str):
        return {"type": kind}
    return {"anyOf": [{"type": each} for each in kind]}


def draw_value(draw: st.DrawFn, kind: Any, keys: Sequence[str], text: Any) -> Any:
    """Return a value that can be written and read as a value of the type."""
    kind = kind if isinstance(kind, str) else draw(st.sampled_from(kind))
    value = draw(json_values(text)[kind])
    if isinstance(value, str):
        value = writable(value, keys)
        return value if value.strip().lower() not in {"null", "none"} else f"{value}!"
    written = json.dumps(value, ensure_ascii=False)  # it may spell the end of a value too
    return value if writable(written, keys) == written else type(value)()
