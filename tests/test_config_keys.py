"""Tests of config_keys: every key of a file is used, refused, known to have no effect, or named."""

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.config_keys import KeyRules, check_keys

FILE = Path("some_config.json")
RULES = KeyRules(
    used={"size", "set.size"},
    supported={"kind": ("plain", None), "set.block": ([128, 128],)},
    without_effect={"use_cache": "a reason"},
)
ALLOWED = {"size": -1, "set.size": "x", "kind": None, "set.block": [128, 128], "use_cache": 7}


@given(
    st.dictionaries(st.sampled_from(list(ALLOWED)), st.none()),
    st.dictionaries(st.text(st.characters(exclude_characters=",:")), st.integers()),
)
def test_a_warning_names_every_unknown_key_once_and_nothing_else(known, drawn):
    unknown = {key: value for key, value in drawn.items() if key not in ALLOWED}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_keys(FILE, unknown | {key: ALLOWED[key] for key in known}, RULES)
    expected = f"{FILE}: not understood and without effect: {', '.join(unknown)}"
    assert [str(warning.message) for warning in caught] == [expected] * bool(unknown)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("kind", "other", "'plain' or None"),
        ("kind", ["plain"], "'plain' or None"),
        ("set.block", None, "[128, 128]"),
        ("set.block", [64, 128], "[128, 128]"),
    ],
)
def test_a_value_that_is_not_computed_is_refused_before_any_warning(key, value, allowed):
    with pytest.raises(ValueError, match=key) as refusal:
        check_keys(FILE, {"unknown": 1, key: value}, RULES)
    assert str(refusal.value) == f"{key} = {value!r}: allowed is {allowed}"


def test_the_warning_is_attributed_to_the_frame_that_is_named():
    with pytest.warns(UserWarning, match="unknown") as caught:
        check_keys(FILE, {"unknown": 1}, RULES)
    assert caught[0].filename == __file__
