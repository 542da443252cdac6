"""The grammar of tool calls: what an answer is that must call a tool."""

import json
from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["tool_call_grammar"]


def tool_call_grammar(
    tools: Sequence[dict[str, Any]], special: Collection[str], *, is_one: bool = False
) -> str:
    """Return the Lark grammar of calls of some tools, in the spelling of MiMo-V2-Flash.

    Parameters
    ----------
    tools
        The functions, each with a name and, if it has any, parameters: a JSON schema.
    special
        The special tokens of the vocabulary: a marker that is none of them is text.
    is_one
        Whether there is one call; otherwise there are one or more.
    """
    start, end = (
        marker if marker in special else json.dumps(marker)
        for marker in ("<tool_call>", "</tool_call>")
    )
    lines = [f"start: {'call' if is_one else 'call+'}\ncall: {start} \"\\n\" (%s) {end} \"\\n\"?"]
    lines[0] %= " | ".join(f"function_{index}" for index in range(len(tools)))
    lines.append("text[lazy]: /(.|\\n)*/ \"</parameter>\\n\"")
    for index, tool in enumerate(tools):
        schema = tool.get("parameters") or {}
        required = schema.get("required", ())
        parts = []
        for number, (name, of_value) in enumerate(schema.get("properties", {}).items()):
            rule = f"parameter_{index}_{number}"
            opening = json.dumps(f"<parameter={name}>")
            lines.append(f"{rule}: {opening} {_value(of_value)}")
            parts.append(rule if name in required else f"{rule}?")
        opening = json.dumps(f"<function={tool['name']}>\n")
        lines.append(f'function_{index}: {opening} {" ".join(parts)} "</function>\\n"')
    return "\n".join(lines)


def _value(schema: dict[str, Any]) -> str:
    """Return the rule of a parameter's value and its end: verbatim text, or JSON."""
    end = '"</parameter>\\n"'
    if choices := schema.get("enum"):
        texts = [value if isinstance(value, str) else json.dumps(value) for value in choices]
        return f"({' | '.join(map(json.dumps, texts))}) {end}"
    if schema.get("type") == "string":
        return "text"
    return f"%json {json.dumps(schema)} {end}"
