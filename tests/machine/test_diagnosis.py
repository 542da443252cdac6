"""A diagnosis: what a check raises is one, with the remedy, on one line."""

import pytest

from mimo_v2_flash.machine.diagnosis import NOTE, OK, PROBLEM, Diagnosis, attempt


def test_a_check_that_ends_is_its_own_diagnosis():
    diagnosis = Diagnosis("memory", "plenty")
    assert attempt("memory", lambda: diagnosis, "free -h") is diagnosis
    assert (diagnosis.level, diagnosis.remedy, diagnosis.numbers) == (OK, "", {})


@pytest.mark.parametrize("level", [NOTE, PROBLEM])
def test_what_a_check_raises_is_one_line_with_a_remedy(level):
    def check():
        raise RuntimeError("two\nlines")

    expected = Diagnosis("disk", "two lines", level, "df -h")
    assert attempt("disk", check, "df -h", level) == expected


def test_an_error_without_words_has_its_name():
    def check():
        raise KeyError

    assert attempt("disk", check, "df -h").text == "KeyError"
