"""Every option of every command has a help text: a sentence that names the default."""

import argparse
import re
from collections.abc import Iterator

import pytest

import run_example
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.parser import CommandParser


def parser_of(command: str) -> argparse.ArgumentParser:
    if command == "run_example.py":
        parser = argparse.ArgumentParser(add_help=False)
        run_example.add_mode(parser)
        return parser
    return CommandParser(command=COMMANDS[command], add_help=False).load()


every_parser = pytest.mark.parametrize("command", [*COMMANDS, "run_example.py"])
SENTENCE = re.compile(r"[A-Z].*[\w)]\.", re.DOTALL)


def required(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all options that are required, alone or as one of an exclusive group."""
    yield from (action for action in parser._actions if action.required)
    for group in parser._mutually_exclusive_groups:
        yield from group._group_actions if group.required else ()


def is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)


@every_parser
def test_every_visible_option_has_a_sentence_that_names_its_default(command):
    parser = parser_of(command)
    visible = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    assert visible
    for action in visible:
        name = "/".join(action.option_strings) or action.dest
        assert SENTENCE.fullmatch(action.help or ""), (name, action.help)
        if action.option_strings and action not in required(parser) and not is_flag(action):
            assert "default" in action.help, (name, action.help)


@every_parser
def test_a_default_that_is_a_number_or_a_name_is_the_one_in_the_help(command):
    for action in parser_of(command)._actions:
        if isinstance(action.default, str | int | float) and not isinstance(action.default, bool):
            shown = action.help == argparse.SUPPRESS or f"default: {action.default}" in action.help
            assert shown or action.default is argparse.SUPPRESS, (action.dest, action.help)


@every_parser
def test_help_can_be_formatted(command):
    assert "usage: " in parser_of(command).format_help()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_a_description_that_begins_with_its_summary(command):
    description = command.load().__doc__
    assert re.match(r"[A-Z].*\.\n\n\S.*\.\n$", description, re.DOTALL)
    assert description.partition("\n")[0] == command.summary


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_and_debug(command):
    visible = {name for action in parser_of(command)._actions for name in action.option_strings}
    assert {"--json", "--debug"} <= visible
