"""Types of options refuse what is out of range, and files that cannot be written."""

import argparse

import pytest

from mimo_v2_flash.cli.option_types import (
    byte_size,
    draft_tokens,
    natural,
    output_file,
    positive,
    positive_number,
)


@pytest.mark.parametrize("text", ["1", "7", " 12", "262144"])
def test_a_number_is_an_int(text):
    assert positive(text) == natural(text) == int(text)


def test_nothing_is_a_natural_number():
    assert natural("0") == 0
    with pytest.raises(argparse.ArgumentTypeError, match="'0' is not an integer above 0"):
        positive("0")


@pytest.mark.parametrize("text", ["-1", "", "two", "1.5", "1e3", "nan", "0x10"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"'.*' is not an integer above 0"):
        positive(text)
    with pytest.raises(argparse.ArgumentTypeError, match=r"'.*' is not an integer of 0 or more"):
        natural(text)


def test_a_size_in_digits_is_bytes_and_others_are_texts():
    assert [byte_size(text) for text in ("400000", "0")] == [400_000, 0]
    texts = ["8GiB", "50%", "", "-5", "1.5", "²", "9" * 5000]
    assert [byte_size(text) for text in texts] == texts


def test_drafts_are_a_number_or_auto():
    assert [draft_tokens(text) for text in ("0", "3", "auto")] == [0, 3, "auto"]
    for text in ("-1", "Auto", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="an integer of 0 or more, or auto"):
            draft_tokens(text)


@pytest.mark.parametrize("number", [2**31, 10**30])
def test_a_size_is_at_most_what_int32_holds_and_a_seed_is_not_bounded(number):
    with pytest.raises(argparse.ArgumentTypeError, match=rf"'{number}' is above 2,147,483,647"):
        positive(str(number))
    assert positive(str(2**31 - 1)) == 2**31 - 1
    assert natural(str(number)) == number


def test_a_file_need_not_exist_but_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output_file(f"{tmp_path}/new.json") == tmp_path / "new.json"
    assert str(output_file("new.json")) == "new.json"
    assert str(output_file("/dev/null")) == "/dev/null"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "message"),
    [("absent/x.json", "absent/x.json: no such folder"), (".", "'.' is no file"), ("", "'' is no")],
)
def test_where_no_file_can_be_is_refused(file, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        output_file(file)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(argparse.ArgumentTypeError, match=r"x\.json: permission denied"):
        output_file(str(tmp_path / "x.json"))


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_a_number_above_0_is_finite(text):
    assert positive_number("0.5") == 0.5
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number above 0"):
        positive_number(text)
