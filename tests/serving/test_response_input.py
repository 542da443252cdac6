"""Requests of /v1/responses as those of a chat: items are turns, and what is malformed is named."""

import pytest

from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.protocol import ResponseFields, parse_request
from mimo_v2_flash.serving.response_input import chat_request
from tests.support.served import RESPONSES_WEATHER, WEATHER

USER = {"role": "user", "content": "Rain?"}
CALL = {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": '{"days": 3}'}
OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "It rains."}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}
ANSWER = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
}
TOOL_CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"days": 3}},
}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "It rains."}


def chat(**fields):
    return chat_request(parse_request(ResponseFields, {"input": "Rain?", **fields}))


def test_a_text_is_a_message_of_the_user():
    assert chat().messages == [USER]
    system = {"role": "system", "content": "Be brief."}
    assert chat(instructions="Be brief.").messages == [system, USER]


@pytest.mark.parametrize(
    ("items", "turns"),
    [
        ([USER, ANSWER], [USER, {"role": "assistant", "content": "Yes."}]),
        ([ANSWER, ANSWER], [{"role": "assistant", "content": "Yes."}] * 2),
        (
            [THOUGHT, ANSWER, CALL, CALL, OUTPUT, ANSWER, USER],
            [
                {
                    "role": "assistant",
                    "reasoning_content": "Hm.",
                    "content": "Yes.",
                    "tool_calls": [TOOL_CALL, TOOL_CALL],
                },
                RESULT,
                {"role": "assistant", "content": "Yes."},
                USER,
            ],
        ),
        (
            [CALL, ANSWER, THOUGHT, USER],
            [
                {"role": "assistant", "tool_calls": [TOOL_CALL], "content": "Yes."},
                {"role": "assistant", "reasoning_content": "Hm."},
                USER,
            ],
        ),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]}],
            [{"role": "assistant", "reasoning_content": "So."}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": each} for each in "ab"]}],
            [{"role": "user", "content": "a\nb"}],
        ),
    ],
)
def test_items_are_turns_of_a_chat(items, turns):
    assert chat(input=items).messages == turns


def test_fields_have_the_names_of_a_chat():
    request = chat(
        tools=[RESPONSES_WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "array"}}},
        reasoning={"effort": "none"},
        max_output_tokens=7,
        stream=True,
        stream_options={"include_obfuscation": False},
        temperature=0.5,
        top_k=3,
        stop="x",
        chat_template_kwargs={"keep_all_reasoning": True},
    )
    assert request.tools == [WEATHER]
    assert request.tool_choice == {"type": "function", "function": {"name": "get_weather"}}
    assert request.response_format.json_schema["schema"] == {"type": "array"}
    assert request.enable_thinking is False
    assert (request.max_completion_tokens, request.temperature, request.top_k) == (7, 0.5, 3)
    assert (request.stops, request.stream, request.stream_options) == (["x"], True, None)
    assert request.chat_template_kwargs == {"keep_all_reasoning": True}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": []}, "input is [], expected is a text or a list of items"),
        ({"input": ["Rain?"]}, "input[0] is 'Rain?', expected is an object"),
        ({"input": [{"type": []}]}, "input[0].type is [], allowed is message, reasoning, "),
        ({"input": [USER, {"type": "item_reference", "id": "x"}]}, "input[1].type is "),
        ({"input": [{"content": "x"}]}, "input[0] has no role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role is 'tool', allowed is user"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type is 'input_image', allowed is \"input_text\", ",
        ),
        ({"input": [CALL | {"arguments": "{"}]}, "input[0].arguments is not JSON"),
        ({"input": [CALL | {"name": 5}]}, "input[0].name is 5, expected is a text"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0] has no call_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type is 'web_search', allowed is"),
        ({"tools": [WEATHER]}, "tools[0] has no name"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type is 'allowed_tools'"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type is 'xml', allowed is text"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema is missing"),
    ],
)
def test_what_is_malformed_is_named(fields, words):
    with pytest.raises(APIError) as caught:
        chat(**fields)
    assert str(caught.value).startswith(words)
    assert caught.value.param == words.partition(" ")[0]
