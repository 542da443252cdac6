"""The commands are those of the issue; each module has the two functions of a command."""

import inspect

import pytest

from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.result import Result

NAMES = (
    "generate demo run serve evaluate random download test doctor prepare quantize experts plan "
    "cost compile trace compare"
)
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def test_the_commands():
    assert list(COMMANDS) == NAMES.split()


@every_command
def test_a_command_has_options_and_returns_a_result(command):
    module = command.load()
    assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
    assert inspect.signature(module.run).return_annotation is Result


@every_command
def test_a_command_takes_the_ranks_if_it_runs_on_them(command):
    assert command.on_ranks == ("setup" in inspect.signature(command.load().run).parameters)
