"""A JSON object is read as json reads it; all else is one short line that says what it is."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.json_object import parse_json_object, read_json_object, shorten

DEPTHS = (1, 100, 900, 960, 990, 2_000, 100_000)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)
plain = st.recursive(st.none() | st.integers() | st.text("ab"), st.lists)


def parsed(content):
    try:
        return parse_json_object(content)
    except ValueError as error:
        return error


@given(content=st.dictionaries(st.text(), values))
def test_an_object_is_what_json_reads(content):
    assert parse_json_object(json.dumps(content)) == content
    assert parse_json_object(json.dumps(content).encode()) == content


@given(content=st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_an_error_in_one_line(content):
    result = parsed(content)
    if not isinstance(result, dict):
        assert str(result).startswith(("not JSON: ", "a JSON object is needed, not "))
        assert len(str(result).splitlines()) == 1


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "1", "}")])
def test_nesting_of_any_depth_is_no_recursion_error(depth, brackets):
    opening, *inner, closing = brackets
    text = opening * depth + "".join(inner) + closing * depth
    result = parsed(text)
    assert isinstance(result, dict) or len(str(result)) < 600


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: "),
        (b"\xff\xfe\x00", "not JSON: 'utf-16"),
        (b"\x80", "not JSON: 'utf-8' codec"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"[" * 100_000, "not JSON: it is nested too deeply"),
        (b"[1, 2]", r"a JSON object is needed, not \[1, 2\]"),
        (b"null", "a JSON object is needed, not None"),
    ],
)
def test_what_is_no_object_is_said(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse_json_object(content)
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file}: {message}"):
        read_json_object(file)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json_object(tmp_path / "absent.json")


@given(value=plain)
def test_a_shortened_value_is_short_and_whole_if_it_can_be(value):
    text = shorten(value)
    assert len(text) < 30_000
    assert "..." in text or ast.literal_eval(text) == value


@given(st.lists(st.tuples(st.text(), st.integers()), max_size=5), st.integers(0, 2))
def test_a_json_object_has_each_key_once_at_any_depth(pairs, depth):
    text = ", ".join(f"{json.dumps(key)}: {value}" for key, value in pairs)
    text = '{"a": ' * depth + "{" + text + "}" + "}" * depth
    if len(dict(pairs)) == len(pairs):
        assert parse_json_object(text) == json.loads(text)
        return
    with pytest.raises(ValueError, match="is there more than once") as refusal:
        parse_json_object(text)
    keys = [key for key, _ in pairs]
    assert any(
        str(refusal.value).startswith(f"not JSON: {key!r}") for key in keys if keys.count(key) > 1
    )
