"""A command's parser: lazy, one line per error, and every old way of typing an option."""

import sys
from types import SimpleNamespace

import pytest

from mimo_v2_flash.cli.commands import COMMANDS, Command
from mimo_v2_flash.cli.entry import CommandError
from mimo_v2_flash.cli.option_types import STDOUT, natural, positive
from mimo_v2_flash.cli.parser import CommandParser, HelpFormatter, close_matches


def parser_of(command: str) -> CommandParser:
    return CommandParser(prog=f"mimo {command}", command=COMMANDS[command])


def parsed(command: str, *words: str) -> SimpleNamespace:
    return SimpleNamespace(**vars(parser_of(command).parse_args(words)))


def refused(command: str, *words: str) -> str:
    with pytest.raises(CommandError) as error:
        parsed(command, *words)
    assert error.value.prog == f"mimo {command}"
    return str(error.value)


def test_the_module_is_imported_at_the_first_use_alone(monkeypatch):
    imported: list[str] = []
    monkeypatch.setattr(
        Command, "load", lambda command: imported.append(command.module) or sys.modules[__name__]
    )
    monkeypatch.setattr(sys.modules[__name__], "add_arguments", lambda _: None, raising=False)
    parser = parser_of("trace")
    assert imported == []
    parser.parse_args([])
    assert parser.parse_args(["--debug"]).debug
    assert imported == ["trace"]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--expert-subset", "0", "1", "2", "4-7"], ["0", "1", "2", "4-7"]),
        (["--expert-subset=0-7"], ["0-7"]),
        (["--expert-sub", "3"], ["3"]),
        ([], None),
    ],
)
def test_a_list_after_an_option(words, ids):
    assert parsed("prepare", "--checkpoint", "a", *words, "--dry-run").expert_subset == ids


@pytest.mark.parametrize(
    ("words", "file"),
    [([], "None"), (["--json"], "-"), (["--json", "a.json"], "a.json"), (["--json=b"], "b")],
)
def test_json_with_and_without_a_file(words, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(parsed("test", *words).json) == file
    assert str(STDOUT) == "-"


def test_json_before_another_option_has_no_file():
    options = parsed("test", "--json", "--seed", "3")
    assert (options.json, options.seed) == (STDOUT, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "/absent/x.json"], "argument --json: /absent/x.json: no such folder"),
        (["--seed", "-1"], "argument --seed: '-1' is not an integer of 0 or more"),
        (["--sed", "1"], "unknown: --sed 1; did you mean --seed?"),
        (["--sed=1"], "unknown: --sed=1; did you mean --seed?"),
        (["what"], "unknown: what"),
    ],
)
def test_a_mistake_names_what_was_typed(words, message):
    assert refused("test", *words) == message


def test_a_misspelled_option_is_named_though_a_required_one_is_missing():
    words = ["--promt", "x", "--max-new-tokens=3"]
    assert refused("generate", *words).startswith("unknown: --promt; did you mean --prompt or ")
    required = "one of the arguments --prompt --prompt-file is required"
    assert refused("generate", "--max-new-tok", "3") == required


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_a_range_and_names_its_option(command):
    parser = parser_of(command).load()
    options = [action for action in parser._actions if action.type in (positive, natural)]
    for name in (name for option in options for name in option.option_strings):
        assert refused(command, name, "-1").startswith(f"argument {name}: '-1' is not an integer")
    unlimited = {option.dest for option in parser._actions if option.type is int}
    assert unlimited <= {"top_k", "lnc", "port"}  # with `choices`, and as the checkpoint allows


@pytest.mark.parametrize("name", ["--activation-dtype", "--stream-dtype"])
def test_an_old_name_is_named_as_it_was_typed(name):
    assert refused("plan", name, "int8").startswith(f"argument {name}: invalid choice: 'int8'")


@pytest.mark.parametrize("name", ["--activation-dtype", "--stream-dtype", "--stream-d"])
def test_a_parser_knows_how_an_option_was_typed(name):
    parser = parser_of("plan")
    parser.parse_args([name, "bfloat16", "--batch-size=2"])
    full = "--stream-dtype" if name == "--stream-d" else name
    assert parser.spelled == {"activation_dtype": full, "batch_size": "--batch-size"}


def test_help_is_plain_where_no_terminal_is_and_keeps_brackets(capsys):
    """`[text]` is markup for rich; help says it as it is."""
    parser = parser_of("trace").load()
    parser.description = "Install with pip install '.[text]'."
    assert issubclass(parser.formatter_class, HelpFormatter)
    text = parser.format_help()
    assert "pip install '.[text]'." in text
    assert "\x1b" not in text
    assert "usage: mimo trace " in text


@pytest.mark.parametrize(
    ("word", "end"),
    [("genrate", "; did you mean generate?"), ("xyz", ""), ("trce", "; did you mean trace?")],
)
def test_close_matches(word, end):
    assert close_matches(word, COMMANDS) == end


def test_a_value_of_two_dashes_is_no_value():
    """Argparse itself makes an empty list of it."""
    with pytest.raises(CommandError, match="argument --chunk: expected one argument"):
        parsed("generate", "--prompt", "the", "--chunk=--")


def test_what_is_unknown_is_quoted_where_it_cannot_be_seen():
    with pytest.raises(CommandError, match=r"^unknown: '' 'a b'$"):
        parsed("test", "", "a b")
