"""chat_messages: what clients send, in the form that templates expect, or a line that names it."""

import pytest

from mimo_v2_flash.text.chat_messages import normalize_messages, normalize_tools
from tests.support.chat_text import TOOLS


def normalized(**message):
    (result,) = normalize_messages([message])
    return result


def call(arguments, name="f"):
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_parts_of_a_text_are_joined_by_newlines():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert normalized(role="user", content=parts)["content"] == "a\nb"
    assert normalized(role="tool", content=[])["content"] == ""


def test_a_developer_is_the_system():
    assert normalized(role="developer", content="a") == {"role": "system", "content": "a"}


@pytest.mark.parametrize(
    "fields", [("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")]
)
def test_reasoning_has_one_name(fields):
    message = normalized(role="assistant", content="c", **dict.fromkeys(fields, "r"))
    assert message == {"role": "assistant", "content": "c", "reasoning_content": "r"}


@pytest.mark.parametrize("text", ["<think>r</think>c", "r</think>c"])
def test_thinking_in_the_content_is_reasoning(text):
    message = normalized(role="assistant", content=text)
    assert (message["reasoning_content"], message["content"]) == ("r", "c")
    message = normalized(role="assistant", content=text, reasoning_content="s")
    assert (message["reasoning_content"], message["content"]) == ("s", text)
    assert normalized(role="user", content=text) == {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": [1, "b"]}', {"a": [1, "b"]}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_arguments_are_objects(arguments, expected):
    message = normalized(role="assistant", content=None, tool_calls=[call(arguments)])
    assert message["content"] == ""
    assert message["tool_calls"] == [call(expected)]


def test_messages_of_the_caller_are_not_changed():
    message = {"role": "assistant", "reasoning": "r", "tool_calls": [call("{}")]}
    normalize_messages([message])
    assert message == {"role": "assistant", "reasoning": "r", "tool_calls": [call("{}")]}


ASSISTANT = {"role": "assistant"}
REFUSALS = [
    ({}, "messages[0] has no role"),
    ("a", "messages[0] is 'a', expected is an object"),
    ({"role": "USER", "content": "a"}, "messages[0].role is 'USER', allowed is system, developer"),
    ({"role": ["user"], "content": "a"}, "messages[0].role is ['user'], allowed is "),
    ({"role": "user"}, "messages[0] has no content"),
    (
        {"role": "user", "content": None},
        "messages[0].content is None, expected is a text or a list",
    ),
    ({"role": "user", "content": 5}, "messages[0].content is 5, expected is a text or a list"),
    ({"role": "user", "content": ["a"]}, "messages[0].content[0] is 'a', expected is an object"),
    (
        {"role": "user", "content": [{"type": "image_url"}]},
        "messages[0].content[0].type is 'image_url', allowed is \"text\"",
    ),
    (
        {"role": "user", "content": [{"type": "text", "text": 5}]},
        "messages[0].content[0].text is 5, expected is a text",
    ),
    (ASSISTANT, "messages[0] has no content, reasoning_content or tool_calls"),
    (ASSISTANT | {"content": "", "reasoning": 5}, "messages[0].reasoning_content is 5, expected"),
    (
        ASSISTANT | {"tool_calls": {"a": 1}},
        "messages[0].tool_calls is {'a': 1}, expected is a list",
    ),
    (ASSISTANT | {"tool_calls": ["a"]}, "messages[0].tool_calls[0] is 'a', expected is an object"),
    (ASSISTANT | {"tool_calls": [{}]}, "messages[0].tool_calls[0] has no function"),
    (
        ASSISTANT | {"tool_calls": [{"function": {"name": "f"}}]},
        "messages[0].tool_calls[0].function has no arguments",
    ),
    (
        ASSISTANT | {"tool_calls": [call("{}", "a>b")]},
        "messages[0].tool_calls[0].function.name is 'a>b', expected is a name without <",
    ),
    (
        ASSISTANT | {"tool_calls": [call("{")]},
        "messages[0].tool_calls[0].function.arguments is not JSON: ",
    ),
    (
        ASSISTANT | {"tool_calls": [call("[" * 100_000)]},
        "messages[0].tool_calls[0].function.arguments is not JSON: ",
    ),
    (
        ASSISTANT | {"tool_calls": [call("[1]")]},
        "messages[0].tool_calls[0].function.arguments is [1], expected is a JSON object",
    ),
]


@pytest.mark.parametrize(("message", "line"), REFUSALS)
def test_a_malformed_message_is_one_line_that_names_the_field(message, line):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  the line follows
        normalize_messages([message])
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("messages", [[], "a", {"role": "user", "content": "a"}, None])
def test_what_is_no_list_of_messages_is_refused(messages):
    with pytest.raises(ValueError, match=r"^messages is .*, expected is a list of messages"):
        normalize_messages(messages)


def test_tools_are_as_they_are_and_none_is_no_tools():
    assert normalize_tools(TOOLS) == TOOLS
    assert normalize_tools(None) == []


@pytest.mark.parametrize(
    ("tool", "line"),
    [
        (5, "tools[0] is 5, expected is an object"),
        ({"function": {"name": "f"}}, "tools[0] has no type"),
        ({"type": "web_search"}, "tools[0].type is 'web_search', allowed is \"function\""),
        ({"type": "function"}, "tools[0] has no function"),
        ({"type": "function", "function": {}}, "tools[0].function has no name"),
        ({"type": "function", "function": {"name": ""}}, "tools[0].function.name is '', expected"),
        ({"type": "function", "function": {"name": 5}}, "tools[0].function.name is 5, expected"),
        (
            {"type": "function", "function": {"name": "f", "parameters": [1]}},
            "tools[0].function.parameters is [1], expected is a JSON schema",
        ),
    ],
)
def test_a_malformed_tool_is_one_line_that_names_the_field(tool, line):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  the line follows
        normalize_tools([tool])
    assert str(refusal.value).startswith(line)
