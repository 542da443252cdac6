"""An integer in a variable of the process: missing or malformed, it is named with its range."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.process_variables import integer_variable


@given(value=st.integers(0, 10**6), low=st.integers(0, 10**6), high=st.integers(0, 10**6))
def test_an_integer_in_the_range_is_read_and_any_other_is_refused(value, low, high):
    env = {"RANK": f"{value}"}
    if low <= value <= high:
        assert integer_variable(env, "RANK", minimum=low, maximum=high) == value
    else:
        with pytest.raises(ValueError, match=rf"^RANK is '{value}', expected .*, {low} to {high}$"):
            integer_variable(env, "RANK", minimum=low, maximum=high)


@pytest.mark.parametrize(
    "text", ["", " ", "two", "-1", "+1", "1_0", "2.0", "1e3", "0x2", "٣", "²", "1 2", "9" * 5000]
)
def test_a_text_that_is_no_integer_is_named(text):
    with pytest.raises(ValueError, match=r"^RANK is '.*, expected an integer, 0 or more$") as error:
        integer_variable({"RANK": text}, "RANK")
    assert len(str(error.value)) < 100


def test_a_missing_one_is_its_default_or_an_error():
    assert integer_variable({}, "RANK", default=3) == 3
    with pytest.raises(ValueError, match=r"^RANK is missing, expected an integer, 0 to 1$"):
        integer_variable({}, "RANK", maximum=1)


def test_blanks_around_an_integer_are_allowed():
    assert integer_variable({"RANK": " 3\n"}, "RANK") == 3
