"""tool_arguments: values of every type, good and bad, and JSON while it is written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.text.tool_arguments import (
    ArgumentsWriter,
    convert_value,
    resolve_reference,
    schema_types,
)

# The text, the schema's types, and the value.
CONVERSIONS = [
    *[(text, "string", text) for text in ("5", "null", "true", "[1]", " a\n", "", "None")],
    *[("5", "integer", 5), (" 5\n", "integer", 5), ("5.0", "integer", 5), ("-7", "integer", -7)],
    *[("5.5", "integer", "5.5"), ("five", "integer", "five"), ("true", "integer", "true")],
    *[("", "integer", ""), ("0x5", "integer", "0x5"), ("1e999", "integer", "1e999")],
    *[("9" * 40, "integer", int("9" * 40)), ("9" * 5000, "integer", "9" * 5000)],
    *[("5", "number", 5), ("-0.5", "number", -0.5), ("1e3", "number", 1000.0)],
    *[("NaN", "number", "NaN"), ("inf", "number", "inf"), ("Infinity", "number", "Infinity")],
    *[("-Infinity", "number", "-Infinity"), ("1e999", "number", "1e999"), ("1,5", "number", "1,5")],
    *[("true", "boolean", True), ("True", "boolean", True), ("1", "boolean", True)],
    *[("FALSE", "boolean", False), ("0", "boolean", False), ("\nfalse\n", "boolean", False)],
    *[("yes", "boolean", "yes"), ("2", "boolean", "2"), ("null", "boolean", "null")],
    *[("null", "null", None), ("None", "null", None), (" NULL ", "null", None), ("0", "null", "0")],
    *[("[1, null]", "array", [1, None]), ("[]", "array", []), ("{}", "array", "{}")],
    *[("[1e999]", "array", "[1e999]"), ("[NaN]", "array", "[NaN]"), ("[1", "array", "[1")],
    *[("[" * 100_000, "array", "[" * 100_000), ('["\\ud800"]', "array", '["\\ud800"]')],
    *[('{"a": [true]}', "object", {"a": [True]}), ("[]", "object", "[]")],
    *[("{'a': 1}", "object", "{'a': 1}"), ("", "object", "")],
    *[("null", "string null", None), ("a", "string null", "a"), ("5", "string integer", 5)],
    *[("5", "integer boolean", 5), ("true", "integer boolean", True), ("1", "null boolean", True)],
    *[("5.5", "integer number", 5.5), ("[1]", "object array", [1]), ("a", "", "a"), ("5", "", "5")],
]


@pytest.mark.parametrize(("text", "types", "expected"), CONVERSIONS)
def test_a_text_is_a_value_of_a_type_or_itself(text, types, expected):
    value = convert_value(text, set(types.split()))
    assert value == expected
    assert type(value) is type(expected)


SCHEMAS = [
    ({"type": "string"}, "string"),
    ({"type": ["string", "null"]}, "string null"),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string null"),
    ({"oneOf": [{"type": "integer"}, {"anyOf": [{"type": "array"}]}]}, "integer array"),
    ({"allOf": [{"$ref": "#/$defs/Colour"}]}, "string"),
    ({"$ref": "#/$defs/Node"}, "object null"),
    ({"$ref": "#/$defs/Absent"}, ""),
    ({"$ref": "https://example.com/a.json"}, ""),
    ({"$ref": 5}, ""),
    (
        {"enum": ["a", 5, None, True, 1.5, [], {}]},
        "string integer null boolean number array object",
    ),
    ({"enum": ["1", "2"], "type": "integer"}, "integer"),
    ({"const": 5}, "integer"),
    ({}, ""),
    (True, ""),
    (None, ""),
    ({"type": 5, "anyOf": 5, "enum": 5}, ""),
    ({"type": [["a"], "string"]}, "string"),
]
ROOT = {
    "$defs": {
        "Colour": {"enum": ["red", "green"]},
        "Node": {"anyOf": [{"$ref": "#/$defs/Node"}] * 9 + [{"type": ["object", "null"]}]},
    }
}


@pytest.mark.parametrize(("schema", "types"), SCHEMAS)
def test_the_types_of_a_schema(schema, types):
    assert schema_types(schema, ROOT) == set(types.split())


PROPERTIES = {
    "s": {"type": "string"},
    "i": {"type": "integer"},
    "u": {"anyOf": [{"type": "string"}, {"type": "null"}]},
}
pairs = st.tuples(st.sampled_from(["s", "i", "u", "x", 'a"b']), st.text(max_size=9) | st.just("5"))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"$ref": "#/$defs/A"}, {"const": 1}),
        ({"$ref": "#/$defs/B"}, {}),
        ({"$ref": 5}, {}),
        ({"type": "null"}, {"type": "null"}),
        (True, {}),
    ],
)
def test_a_reference_is_the_schema_that_it_points_to(schema, expected):
    assert resolve_reference(schema, {"$defs": {"A": {"const": 1}}}) == expected


@given(st.lists(pairs, max_size=4), st.integers(1, 3))
def test_what_is_written_in_pieces_is_the_object(arguments, size):
    writer = ArgumentsWriter({"properties": PROPERTIES})
    written = []
    for key, text in arguments:
        written.append(writer.begin_value(key))
        written += [writer.write(text[n : n + size]) for n in range(0, len(text), size)]
        written.append(writer.end_value())
    types = {"i": {"integer"}, "u": {"string", "null"}}
    expected = {key: convert_value(text, types.get(key, set())) for key, text in arguments}
    whole = "".join([*written, writer.end()])
    assert json.loads(whole) == expected
    if len(expected) == len(arguments):
        assert whole == json.dumps(expected, ensure_ascii=False)


def test_strings_are_written_at_once_and_other_values_when_they_are_whole():
    writer = ArgumentsWriter({"properties": PROPERTIES})
    assert [writer.begin_value("s"), writer.write('a"'), writer.end_value()] == [
        '{"s": "',
        'a\\"',
        '"',
    ]
    assert [writer.begin_value("i"), writer.write("5"), writer.end_value()] == ["", "", ', "i": 5']
    assert writer.end() == "}"


@pytest.mark.parametrize(
    ("key", "expected"), [("s", '{"s": "5"}'), ("x", '{"x": "5"}'), ("i", "{}")]
)
def test_of_a_value_that_is_cut_a_string_is_kept(key, expected):
    writer = ArgumentsWriter({"properties": PROPERTIES})
    parts = [writer.begin_value(key), writer.write("5"), writer.cut_value(), writer.end()]
    assert "".join(parts) == expected


@pytest.mark.parametrize("parameters", [None, {}, 5, {"properties": 5}, {"properties": {"a": 5}}])
def test_without_a_schema_values_are_texts(parameters):
    writer = ArgumentsWriter(parameters)
    parts = [writer.begin_value("a"), writer.write("5"), writer.end_value(), writer.end()]
    assert "".join(parts) == '{"a": "5"}'


def test_declared_parameters_are_missing_until_they_have_a_value():
    writer = ArgumentsWriter({"properties": PROPERTIES})
    assert writer.missing == set(PROPERTIES)
    writer.begin_value("s")
    assert writer.missing == {"i", "u"}
