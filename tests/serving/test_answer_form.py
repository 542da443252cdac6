"""The form of an answer: which field asks for which grammar, and what the calls of tools may be."""

import json

import pytest

from mimo_v2_flash.serving.answer_form import answer_form, tool_call_grammar
from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.grammar import GrammarCompiler
from mimo_v2_flash.serving.protocol import ChatCompletionFields, parse_request
from mimo_v2_flash.text.chat_output import join_deltas
from mimo_v2_flash.text.output_parser import OutputParser
from mimo_v2_flash.text.tokenizer import tokens
from tests.support.served import WEATHER

NOW = {"type": "function", "function": {"name": "now"}}
CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>{city}</parameter>\n"
    "<parameter=days>{days}</parameter>\n</function>\n</tool_call>"
)
NOW_CALL = "<tool_call>\n<function=now>\n</function>\n</tool_call>"


def form(tokenizer, **fields):
    body = {"messages": [{"role": "user", "content": "Hello"}], **fields}
    return answer_form(parse_request(ChatCompletionFields, body), tokenizer)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": "auto"},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False}},
    ],
)
def test_most_requests_ask_for_no_form(tokenizer, fields):
    assert form(tokenizer, **fields) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"response_format": {"type": "json_object"}},
            ("json_schema", '{"type": "object"}', "response_format"),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [1]}}}},
            ("json_schema", '{"enum": [1]}', "response_format"),
        ),
        (
            {"structured_outputs": {"json": {"enum": [1]}}},
            ("json_schema", '{"enum": [1]}', "structured_outputs"),
        ),
        ({"structured_outputs": {"regex": "a+"}}, ("regex", "a+", "structured_outputs")),
        (
            {"structured_outputs": {"choice": ["a", "b"]}},
            ("choice", '["a", "b"]', "structured_outputs"),
        ),
    ],
)
def test_a_form_is_a_grammar(tokenizer, fields, expected):
    assert form(tokenizer, **fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": "sometimes"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [WEATHER], "tool_choice": {"function": 3}},
        {
            "tools": [WEATHER],
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        },
    ],
)
def test_a_form_that_makes_no_sense_is_refused(tokenizer, fields):
    with pytest.raises(APIError):
        form(tokenizer, **fields)


def is_allowed(tokenizer, grammar, text):
    compiler = GrammarCompiler(tokenizer, 4096, [0, 2])
    each = compiler.constraint(compiler.compile("lark", grammar, "tools"), None)
    for token in [*tokens(tokenizer, text), 2]:
        if not each.mask()[token]:
            return False
        each.accept(token)
    return True


@pytest.mark.parametrize(
    ("text", "is_one", "expected"),
    [
        (CALL.format(city='New\nYork </b> "x"', days=3), True, True),
        (CALL.format(city="", days=-3), True, True),
        (CALL.format(city="Rome", days="three"), True, False),
        (NOW_CALL, True, True),
        (NOW_CALL + "\n" + CALL.format(city="Rome", days=1), False, True),
        (NOW_CALL + "\n" + NOW_CALL, True, False),
        ("Let me see. " + NOW_CALL, False, False),
        (NOW_CALL.replace("now", "then"), False, False),
    ],
)
def test_an_answer_that_must_call_is_calls_of_tools(tokenizer, text, is_one, expected):
    functions = [tool["function"] for tool in (WEATHER, NOW)]
    grammar = tool_call_grammar(functions, tokenizer.added_tokens_encoder, is_one=is_one)
    assert is_allowed(tokenizer, grammar, text) == expected
    if expected:
        parser = OutputParser(tokenizer, [WEATHER, NOW])
        deltas = [delta for token in tokens(tokenizer, text) for delta in parser.push(token)]
        message = join_deltas([*deltas, *parser.end()])
        assert message.content is None
        assert all(json.loads(call.arguments) is not None for call in message.tool_calls)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rains <b>and</b> shines.\n", True),
        ("", True),
        (CALL.format(city="Rome", days=3), True),
        ("Let me see.\n" + CALL.format(city="Rome", days=3) + NOW_CALL + "\nSo.", True),
        (CALL.format(city="Rome", days="three"), False),
        ("Let me see." + CALL.format(city="Rome", days="three"), False),
        ("<function=get_weather>", False),
        (NOW_CALL.replace("</f", "<parameter=x>\n5</parameter>\n</f"), True),
        (NOW_CALL.replace("now", "then"), False),
    ],
)
def test_a_strict_tool_is_called_as_its_schema_has_it_if_it_is_called(tokenizer, text, expected):
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    kind, grammar, param = form(tokenizer, tools=[strict, NOW])
    assert (kind, param) == ("lark", "tools")
    assert is_allowed(tokenizer, grammar, text) == expected


DEFINITIONS = {
    "Unit": {"enum": ["C", "F"], "type": "string"},
    "Tree": {
        "type": "object",
        "properties": {"leaf": {"type": "integer"}, "next": {"$ref": "#/$defs/Tree"}},
        "required": ["leaf"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "Rome", "Rome"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
        ({"type": ["string", "null"]}, '"Rome"', '"Rome"'),
        ({}, "Rome", "Rome"),
        (True, "Rome", "Rome"),
        ({"const": "a"}, "a", "a"),
        ({"const": "a"}, "b", ...),
        ({"$ref": "#/$defs/Unit"}, "C", "C"),
        ({"$ref": "#/$defs/Unit"}, "K", ...),
        ({"$ref": "#/$defs/Tree"}, '{"leaf":1}', {"leaf": 1}),
        (
            {"$ref": "#/$defs/Tree"},
            '{"leaf": 1, "next": {"leaf": 2}}',
            {"leaf": 1, "next": {"leaf": 2}},
        ),
        ({"$ref": "#/$defs/Tree"}, '{"leaf": "x"}', ...),
        ({"$ref": "#/$defs/None"}, "Rome", "Rome"),
        ({"type": "array", "items": {"$ref": "#/$defs/Unit"}}, '["C", "F"]', ["C", "F"]),
        ({"type": "array", "items": {"$ref": "#/$defs/Unit"}}, f'[{" " * 21}"C"]', ...),
        ({"enum": [1, "a"]}, "1", 1),
        ({"enum": 5}, "x", "x"),
    ],
)
def test_a_value_that_is_allowed_is_read_as_its_schema_has_it(tokenizer, schema, text, value):
    parameters = {"properties": {"x": schema}, "$defs": DEFINITIONS}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    grammar = tool_call_grammar([tool["function"]], tokenizer.added_tokens_encoder)
    call = f"<tool_call>\n<function=f>\n<parameter=x>{text}</parameter>\n</function>\n</tool_call>"
    assert is_allowed(tokenizer, grammar, call) == (value is not ...)
    if value is not ...:
        parser = OutputParser(tokenizer, [tool])
        deltas = [delta for token in tokens(tokenizer, call) for delta in parser.push(token)]
        (parsed,) = join_deltas([*deltas, *parser.end()]).tool_calls
        assert json.loads(parsed.arguments) == {"x": value}


@pytest.mark.parametrize(
    "parameters", [{"properties": [1]}, {"properties": {"x": {"type": "string"}}, "required": 5}]
)
def test_parameters_that_are_no_schema_are_as_if_absent(tokenizer, parameters):
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert form(tokenizer, tools=tools, tool_choice="required") is not None


def test_a_marker_that_is_no_token_is_text(tokenizer):
    grammar = tool_call_grammar([NOW["function"]], ())
    assert '"<tool_call>"' in grammar


def test_a_choice_of_a_function_leaves_the_others(tokenizer):
    choice = {"type": "function", "function": {"name": "now"}}
    kind, grammar, param = form(tokenizer, tools=[WEATHER, NOW], tool_choice=choice)
    assert (kind, param) == ("lark", "tool_choice")
    assert "get_weather" not in grammar
