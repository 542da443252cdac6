"""Every option of every mode has a help text: a sentence that names the default."""

import argparse
import re
from collections.abc import Callable, Iterator

import pytest

import run_example
from mimo_v2_flash.cli import prepare

COMMANDS = {mode: module.add_arguments for mode, module in run_example.MODES.items()}
COMMANDS |= {"prepare": prepare.add_arguments, "run_example": run_example._add_mode}

SENTENCE = re.compile(r"[A-Z].*[\w)]\.", re.DOTALL)


def parser_of(add_arguments: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return parser


def required(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all options that are required, alone or as one of an exclusive group."""
    yield from (action for action in parser._actions if action.required)
    for group in parser._mutually_exclusive_groups:
        yield from group._group_actions if group.required else ()


def is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_visible_option_has_a_sentence_that_names_its_default(command):
    parser = parser_of(COMMANDS[command])
    visible = [action for action in parser._actions if action.help is not argparse.SUPPRESS]
    assert visible
    for action in visible:
        name = "/".join(action.option_strings) or action.dest
        assert SENTENCE.fullmatch(action.help or ""), (name, action.help)
        if action.option_strings and action not in required(parser) and not is_flag(action):
            assert "default" in action.help, (name, action.help)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_default_that_is_a_number_or_a_name_is_the_one_in_the_help(command):
    for action in parser_of(COMMANDS[command])._actions:
        if isinstance(action.default, str | int | float) and not isinstance(action.default, bool):
            shown = action.help == argparse.SUPPRESS or f"default: {action.default}" in action.help
            assert shown or action.default is argparse.SUPPRESS, (action.dest, action.help)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_can_be_formatted(command):
    assert "usage: " in parser_of(COMMANDS[command]).format_help()


@pytest.mark.parametrize("module", [*run_example.MODES.values(), prepare])
def test_every_mode_has_a_description(module):
    assert re.match(r"[A-Z].*\.\n\n\S.*\.\n$", module.__doc__, re.DOTALL)
