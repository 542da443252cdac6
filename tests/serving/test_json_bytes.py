"""JSON that the server sends: whatever a client has sent may be in it."""

import json
import math

import pytest

from mimo_v2_flash.serving.json_bytes import json_bytes


@pytest.mark.parametrize("value", ["é 🙂 \u2028", "\ud800", 10**40, [1.5, None, True], {"a": "b"}])
def test_a_value_comes_back(value):
    assert json.loads(json_bytes({"x": value})) == {"x": value}


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_lacks_is_null(number):
    assert json.loads(json_bytes([number])) == [None]
