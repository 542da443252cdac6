"""Requests of /v1/responses as requests of a chat: input items, tools, the form of the text.

Source: OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses).
"""

from collections.abc import Callable, Mapping
from typing import Any

from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.text.chat_messages import (
    checked_text,
    join_parts,
    parse_arguments,
    required_entry,
)

from .errors import APIError
from .protocol import ChatCompletionFields, GenerationRequest, ResponseFields, parse_request

__all__ = ["chat_request"]

SHARED = {*GenerationRequest.model_fields, "chat_template_kwargs", "parallel_tool_calls"}
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text")
CONTINUED = ("reasoning", "function_call")  # the turn goes on; after a message only with calls
FORMATS = ("text", "json_object", "json_schema")


def chat_request(request: ResponseFields) -> ChatCompletionFields:
    """Return the request of /v1/chat/completions that has the same answer.

    Raises
    ------
    APIError
        If an item, a tool or a format is malformed, or of a kind that there is not.
    """
    fields = {name: getattr(request, name) for name in SHARED - {"stream_options"}}
    try:
        fields |= {
            "messages": _messages(request),
            "tools": [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())],
            "tool_choice": _tool_choice(request.tool_choice),
            "response_format": _response_format(request.format),
            "max_completion_tokens": request.max_output_tokens,
            "reasoning_effort": request.effort,
            "logprobs": request.logprobs,
            "top_logprobs": request.top_logprobs,
        }
    except ValueError as error:
        raise APIError(str(error), param=str(error).partition(" ")[0]) from error
    return parse_request(ChatCompletionFields, fields)


def _messages(request: ResponseFields) -> list[dict[str, Any]]:
    """Return instructions and input as messages; what the model wrote in one turn is one."""
    messages: list[dict[str, Any]] = []
    if request.instructions is not None:
        messages.append({"role": "system", "content": request.instructions})
    if not request.input:
        raise ValueError(f"input is {request.input!r}, expected is a text or a list of items")
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    previous = None
    for index, item in enumerate(request.input):
        kind, message = _read_item(item, f"input[{index}]")
        is_turn = message["role"] == "assistant"
        if is_turn and (previous in CONTINUED or (previous and kind == "function_call")):
            _extend(messages[-1], message)
        else:
            messages.append(message)
        previous = kind if is_turn else None
    return messages


def _extend(turn: dict[str, Any], message: dict[str, Any]) -> None:
    """Add what the model wrote next to its turn."""
    for name in message.keys() - {"role"}:
        turn[name] = turn[name] + message[name] if name in turn else message[name]


def _read_item(item: Any, place: str) -> tuple[str, dict[str, Any]]:
    """Return the kind of an input item, and the message that it is."""
    if not isinstance(item, Mapping):
        raise ValueError(f"{place} is {shorten(item)}, expected is an object")
    kind = item.get("type", "message")
    if not isinstance(kind, str) or kind not in READERS:
        raise ValueError(f"{place}.type is {shorten(kind)}, allowed is {', '.join(READERS)}")
    return kind, READERS[kind](item, place)


def _message(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    role = required_entry(item, "role", place)
    if role not in ROLES:
        raise ValueError(f"{place}.role is {shorten(role)}, allowed is {', '.join(ROLES)}")
    content = required_entry(item, "content", place)
    return {"role": role, "content": join_parts(content, f"{place}.content", TEXT_PARTS)}


def _reasoning(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return thinking; of another server's, which hides it, the summary."""
    text = item.get("content") or item.get("summary") or []
    kinds = "reasoning_text", "summary_text"
    return {"role": "assistant", "reasoning_content": join_parts(text, f"{place}.content", kinds)}


def _function_call(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    entries = {name: required_entry(item, name, place) for name in ("call_id", "name", "arguments")}
    function = {
        "name": checked_text(entries["name"], f"{place}.name"),
        "arguments": parse_arguments(entries["arguments"], f"{place}.arguments"),
    }
    call = {"id": entries["call_id"], "type": "function", "function": function}
    return {"role": "assistant", "tool_calls": [call]}


def _function_call_output(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    output = required_entry(item, "output", place)
    content = join_parts(output, f"{place}.output", TEXT_PARTS)
    call_id = required_entry(item, "call_id", place)
    return {"role": "tool", "tool_call_id": call_id, "content": content}


READERS: dict[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "function_call_output": _function_call_output,
}


def _tool(tool: Any, place: str) -> dict[str, Any]:
    _check_function(tool, place)
    names = "name", "description", "parameters", "strict"
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if not isinstance(choice, dict):
        return choice
    _check_function(choice, "tool_choice")
    return {"type": "function", "function": {"name": choice["name"]}}


def _check_function(value: Any, place: str) -> None:
    kind = required_entry(value, "type", place)
    if kind != "function":
        raise ValueError(f'{place}.type is {shorten(kind)}, allowed is "function"')
    checked_text(required_entry(value, "name", place), f"{place}.name")


def _response_format(form: dict[str, Any]) -> dict[str, Any]:
    kind = required_entry(form, "type", "text.format")
    if kind not in FORMATS:
        raise ValueError(f"text.format.type is {shorten(kind)}, allowed is {', '.join(FORMATS)}")
    if kind != "json_schema":
        return {"type": kind}
    if not isinstance(form.get("schema"), dict):
        raise ValueError("text.format.schema is missing: expected is a JSON schema")
    return {"type": kind, "json_schema": form}
