"""The form that a request asks of an answer, as a grammar: JSON, a choice, calls of tools."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.text.chat_messages import normalize_tools
from mimo_v2_flash.text.tool_arguments import resolve_reference, schema_types

from .errors import APIError
from .grammar import JSON_OPTIONS
from .protocol import ChatCompletionFields

__all__ = ["answer_form", "tool_call_grammar"]

TOOL_CHOICES = ("auto", "none", "required")
GRAMMAR_KINDS = {"json": "json_schema"}
CALL, CALL_END, NEWLINE = "<tool_call>", "</tool_call>", ' "\\n"?'
ANY_OBJECT = '{"type": "object"}'


def answer_form(request: ChatCompletionFields, tokenizer: Any) -> tuple[str, str, str] | None:
    """Return kind and text of a grammar and the field that asks for it; None for any answer.

    Raises
    ------
    APIError
        If fields are malformed, or ask for several forms.
    """
    forms = [
        form
        for form in (
            _tool_choice(request, tokenizer),
            _response_format(request),
            _structured_outputs(request),
        )
        if form is not None
    ]
    if len(forms) > 1:
        raise APIError(f"{forms[0][2]} and {forms[1][2]} exclude each other", param=forms[1][2])
    return forms[0] if forms else None


def _response_format(request: ChatCompletionFields) -> tuple[str, str, str] | None:
    requested = request.response_format
    if requested is None or requested.type == "text":
        return None
    if requested.type == "json_object":
        return "json_schema", ANY_OBJECT, "response_format"
    schema = (requested.json_schema or {}).get("schema")
    if not isinstance(schema, dict):
        message = "response_format.json_schema.schema is missing: expected is a JSON schema"
        raise APIError(message, param="response_format")
    return "json_schema", json.dumps(schema), "response_format"


def _structured_outputs(request: ChatCompletionFields) -> tuple[str, str, str] | None:
    requested = request.structured_outputs
    entries = requested.model_dump(exclude_none=True, by_alias=True) if requested else {}
    if entries.get("json_object") is False:
        del entries["json_object"]
    if len(entries) > 1:
        names = " and ".join(entries)
        raise APIError(f"structured_outputs has {names}: one is allowed", param=next(iter(entries)))
    for kind, value in entries.items():
        if kind == "json_object":
            return "json_schema", ANY_OBJECT, "structured_outputs"
        text = value if isinstance(value, str) else json.dumps(value)
        return GRAMMAR_KINDS.get(kind, kind), text, "structured_outputs"
    return None


def _tool_choice(request: ChatCompletionFields, tokenizer: Any) -> tuple[str, str, str] | None:
    choice = request.tool_choice or "auto"
    tools = [tool["function"] for tool in normalize_tools(request.tools)]
    is_free = choice == "auto" and any(tool.get("strict") is True for tool in tools)
    if choice == "none" or (choice == "auto" and not is_free):
        return None
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        tools = [tool for tool in tools if tool["name"] == name]
    elif choice not in TOOL_CHOICES:
        message = (
            f"tool_choice is {shorten(choice)}, allowed is {', '.join(TOOL_CHOICES)} or a function"
        )
        raise APIError(message, param="tool_choice")
    if not tools:
        raise APIError("tool_choice names no function of tools", param="tool_choice")
    is_one = isinstance(choice, dict) or request.parallel_tool_calls is False
    special = tokenizer.added_tokens_encoder
    grammar = tool_call_grammar(tools, special, is_one=is_one, is_free=is_free)
    return "lark", grammar, "tools" if is_free else "tool_choice"


def tool_call_grammar(
    tools: Sequence[dict[str, Any]],
    special: Collection[str],
    *,
    is_one: bool = False,
    is_free: bool = False,
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
    is_free
        Whether there is any text too, and any number of calls, of which those of functions that are
        not `strict` may have any arguments.
    """
    start, end = (
        marker if marker in special else json.dumps(marker) for marker in (CALL, CALL_END)
    )
    functions = " | ".join(f"function_{index}" for index in range(len(tools)))
    lines = [
        f"start: {'TEXT (call TEXT)*' if is_free else 'call' if is_one else 'call+'}",
        f'call: {start} "\\n" ({functions}) {end}{"" if is_free else NEWLINE}',
        'text[lazy]: /(.|\\n)*/ "</parameter>\\n"',
    ]
    if is_free:
        lines += _free_text(tools, is_special=start == CALL)
    for index, tool in enumerate(tools):
        opening = json.dumps(f"<function={tool['name']}>\n")
        if is_free and tool.get("strict") is not True:
            lines.append(f"function_{index}: {opening} any_arguments")
        else:
            parts, rules = _parameters(f"parameter_{index}", tool.get("parameters") or {})
            lines += [f'function_{index}: {opening} {parts} "</function>\\n"', *rules]
    return "\n".join(lines)


def _parameters(prefix: str, schema: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the parameters of a call in their order, and the rule of each."""
    required, properties = schema.get("required"), schema.get("properties")
    parts, rules = [], []
    entries = properties.items() if isinstance(properties, dict) else ()
    for number, (name, of_value) in enumerate(entries):
        rule, opening = f"{prefix}_{number}", json.dumps(f"<parameter={name}>")
        rules.append(f"{rule}: {opening} {_value(of_value, schema)}")
        is_required = isinstance(required, list) and name in required
        parts.append(rule if is_required else f"{rule}?")
    return " ".join(parts), rules


def _free_text(tools: Sequence[dict[str, Any]], *, is_special: bool) -> list[str]:
    """Return the rules of text, which begins no call, and of arguments that are not checked."""
    names = "|".join(re.escape(tool["name"]).replace("/", r"\/") for tool in tools)
    begins = f"<function=({names})>" if is_special else f"<function=({names})>|{CALL}"
    return [
        rf"TEXT: /(.|\n)*/ & ~/(.|\n)*({begins})(.|\n)*/",
        r'any_arguments[lazy]: /(.|\n)*/ "</function>\n"',
    ]


def _value(schema: Any, root: dict[str, Any]) -> str:
    """Return the rule of a parameter's value and its end: verbatim text, or JSON.

    A value that may be a string is text, as the parser reads it: JSON's quotes would be a part.
    """
    end = '"</parameter>\\n"'
    schema = resolve_reference(schema, root)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if values and isinstance(values, list):
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        return f"({' | '.join(map(json.dumps, texts))}) {end}"
    types = schema_types(schema, root)
    if not types or "string" in types:
        return "text"
    definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return f"%json {json.dumps({'x-guidance': JSON_OPTIONS, **definitions, **schema})} {end}"
