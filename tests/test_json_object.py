"""json_object: a file of one JSON object, or one line that names the file."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mimo_v2_flash.json_object import read_json_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), JSON))
def test_an_object_comes_back(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("json") / "x.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes(json.dumps(content).encode(encoding))
        assert read_json_object(file) == content


def is_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


@given(st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused_in_one_line(tmp_path_factory, content):
    assume(not is_object(content))
    file = tmp_path_factory.mktemp("json") / "x.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"json: (not JSON|a JSON object is needed)") as refusal:
        read_json_object(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["[" * 10**5, '{"a":' * 10**5])
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json: not JSON: "):
        read_json_object(tmp_path / "x.json")
