"""Shared options: a renamed one works by either name, and help shows the new; drafts are none."""

import argparse

import pytest

from mimo_v2_flash.cli.options import add_draft_tokens_argument, add_renamed_option


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_renamed_option(
        parser,
        "--activation-dtype",
        "--stream-dtype",
        choices=("a", "b"),
        default="a",
        help="Which.",
    )
    return parser


@pytest.mark.parametrize("name", ["--activation-dtype", "--stream-dtype"])
def test_either_name_is_the_same_option(parser, name):
    assert vars(parser.parse_args([name, "b"])) == {"activation_dtype": "b"}


def test_without_either_the_default_holds(parser):
    assert vars(parser.parse_args([])) == {"activation_dtype": "a"}


def test_help_shows_the_new_name_alone(parser):
    assert "--activation-dtype" in parser.format_help()
    assert "--stream-dtype" not in parser.format_help()


@pytest.mark.parametrize("name", ["--activation-dtype", "--stream-dtype"])
def test_both_refuse_the_same(parser, name, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([name, "c"])
    assert f"argument {name}: invalid choice: 'c'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "value"),
    [([], "auto"), (["--draft-tokens", "2"], 2), (["--draft-tokens=0"], 0)],
)
def test_drafts_are_made_where_they_pay_unless_an_option_says_otherwise(parser, arguments, value):
    add_draft_tokens_argument(parser)
    assert parser.parse_args(arguments).draft_tokens == value
