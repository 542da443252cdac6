"""Chat messages and tools as OpenAI's clients send them, checked and made what templates expect."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mimo_v2_flash.json_object import shorten

__all__ = [
    "ROLES",
    "checked_text",
    "join_parts",
    "normalize_messages",
    "normalize_tools",
    "parse_arguments",
    "required_entry",
]

ROLES = ("system", "developer", "user", "assistant", "tool")
NAME = re.compile(r"[^<>\r\n]{1,200}")  # of a function, as it can be written in a call


def normalize_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with what templates know: texts, `reasoning_content`, arguments as objects.

    Parameters
    ----------
    messages
        Each has a `role`, one of `ROLES`, and `content`: a text, or a list of parts of type "text",
        which are joined by newlines. A message of the assistant may have `reasoning_content` (or
        `reasoning`) and `tool_calls`, whose `arguments` are JSON, and no content. Thinking that
        stands in its content, up to `</think>`, becomes `reasoning_content`.

    Raises
    ------
    ValueError
        If there is no message or one is malformed; the line names the field.

    Examples
    --------
    >>> normalize_messages([{"role": "user", "content": [{"type": "text", "text": "Hello"}]}])
    [{'role': 'user', 'content': 'Hello'}]
    """
    if isinstance(messages, str | Mapping) or not messages:
        raise ValueError(f"messages is {shorten(messages)}, expected is a list of messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, place: str) -> dict[str, Any]:
    role = required_entry(message, "role", place)
    if role not in ROLES:
        raise ValueError(f"{place}.role is {shorten(role)}, allowed is {', '.join(ROLES)}")
    if role == "assistant":
        return _assistant_message(dict(message), place)
    role = "system" if role == "developer" else role
    content = join_parts(required_entry(message, "content", place), f"{place}.content")
    return {**message, "role": role, "content": content}


def _assistant_message(message: dict[str, Any], place: str) -> dict[str, Any]:
    aliases = [message.pop(name, None) for name in ("reasoning_content", "reasoning")]
    reasoning = next((alias for alias in aliases if alias is not None), None)
    calls = message.pop("tool_calls", None)
    content = message.get("content")
    if content is None and reasoning is None and not calls:
        raise ValueError(f"{place} has no content, reasoning_content or tool_calls")
    message["content"] = "" if content is None else join_parts(content, f"{place}.content")
    if reasoning is None and "</think>" in message["content"]:
        reasoning, _, message["content"] = message["content"].partition("</think>")
        reasoning = reasoning.removeprefix("<think>")
    if reasoning is not None:
        message["reasoning_content"] = join_parts(reasoning, f"{place}.reasoning_content")
    if calls:
        message["tool_calls"] = _tool_calls(calls, f"{place}.tool_calls")
    return message


def join_parts(content: Any, place: str, kinds: Sequence[str] = ("text",)) -> str:
    """Return a text that may be in parts of some kinds; ValueError, with `place`, for others.

    Parameters
    ----------
    content : str, list of dict, or None
        The content of a message.
    place : str
        Where it is, for the message of an error.
    kinds : sequence of str
        Types of parts that are allowed.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"{place} is {shorten(content)}, expected is a text or a list of parts")
    return "\n".join(_part(part, f"{place}[{i}]", kinds) for i, part in enumerate(content))


def _part(part: Any, place: str, kinds: Sequence[str]) -> str:
    kind = required_entry(part, "type", place)
    if kind not in kinds:
        allowed = ", ".join(f'"{each}"' for each in kinds)
        raise ValueError(f"{place}.type is {shorten(kind)}, allowed is {allowed}")
    return checked_text(required_entry(part, "text", place), f"{place}.text")


def _tool_calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise ValueError(f"{place} is {shorten(calls)}, expected is a list of calls")
    return [_tool_call(call, f"{place}[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: Any, place: str) -> dict[str, Any]:
    function = required_entry(call, "function", place)
    name = _name(required_entry(function, "name", f"{place}.function"), f"{place}.function.name")
    where = f"{place}.function.arguments"
    arguments = parse_arguments(required_entry(function, "arguments", f"{place}.function"), where)
    function = {**function, "name": name, "arguments": arguments}
    return {"type": "function", **call, "function": function}


def parse_arguments(arguments: Any, place: str) -> Mapping[str, Any]:
    """Return a call's arguments, JSON or an object; of a key that is there twice the last.

    Models write keys twice. ValueError, with `place`, for anything else.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{place} is {shorten(arguments)}, expected is a JSON object")
    return arguments


def normalize_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return OpenAI's tools, checked: `{"type": "function", "function": {"name": ...}}` each.

    Raises
    ------
    ValueError
        If a tool is malformed; the line names the field.
    """
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or ())]


def _tool(tool: Any, place: str) -> dict[str, Any]:
    kind = required_entry(tool, "type", place)
    if kind != "function":
        raise ValueError(f'{place}.type is {shorten(kind)}, allowed is "function"')
    function = required_entry(tool, "function", place)
    _name(required_entry(function, "name", f"{place}.function"), f"{place}.function.name")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        where = f"{place}.function.parameters"
        raise ValueError(f"{where} is {shorten(parameters)}, expected is a JSON schema")
    return dict(tool)


def _name(name: Any, place: str) -> str:
    if not NAME.fullmatch(checked_text(name, place)):
        raise ValueError(
            f"{place} is {shorten(name)}, expected is a name without <, > and newlines"
        )
    return str(name)


def required_entry(value: Any, key: str, place: str) -> Any:
    """Return what an object has under `key`; ValueError, with `place`, if it has nothing.

    Parameters
    ----------
    value : object
        What should be an object.
    key : str
        The key.
    place : str
        Where it is, for the message of an error.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {shorten(value)}, expected is an object")
    if key not in value:
        raise ValueError(f"{place} has no {key}")
    return value[key]


def checked_text(value: Any, place: str) -> str:
    """Return a text; ValueError, with `place`, if it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{place} is {shorten(value)}, expected is a text")
    return value
