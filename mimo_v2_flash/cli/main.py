"""The console script `mimo`: MiMo-V2-Flash on the command line."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mimo_v2_flash import __version__

from .commands import COMMANDS
from .entry import Invocation, launch
from .option_types import FILE_TYPES
from .parser import CommandParser, OneLineParser, close_matches

__all__ = ["main"]

DESCRIPTION = """\
MiMo-V2-Flash: generate text, evaluate, check, trace, prepare weights, plan and cost deployments.

`mimo COMMAND --help` shows the options of a command. Every command has --json.
Text that a model writes and the tables that a command is run for go to standard output, all else
to standard error."""
BEFORE_RUN = {
    *("-i", "--isq", "--topology", "--isq-cache"),
    *("--expert-cache", "--expert-cache-policy", "--device-map"),
}
SHELLS = ("bash", "zsh", "tcsh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mimo` with these arguments, by default the process's, and return the exit status."""
    return launch("mimo", _parse, arguments)


def _parse(words: list[str]) -> Invocation:
    parser = _parser()
    words = _command_first(words)
    if not words:
        parser.error(f"a command is required: {', '.join(COMMANDS)}; mimo --help describes them")
    if not words[0].startswith("-") and words[0] not in COMMANDS:
        hint = close_matches(words[0], COMMANDS) or f": the commands are {', '.join(COMMANDS)}"
        parser.error(f"no command {words[0]!r}{hint}")
    options = vars(parser.parse_args(words))
    return Invocation(options.pop("parser"), options)


def _command_first(words: list[str]) -> list[str]:
    """Return the words of `run` in this package's order: mistral.rs has options before it.

    Of these -i alone has no value, and means a chat, which `run` is.
    """
    before: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0].partition("=")[0] in BEFORE_RUN:
        count = 1 if rest[0] == "-i" or "=" in rest[0] else 2
        before += rest[:count] if rest[0] != "-i" else []
        rest = rest[count:]
    return ["run", *before, *rest[1:]] if rest[:1] == ["run"] else words


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="mimo", description=DESCRIPTION)
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        default=argparse.SUPPRESS,
        help="Show the version and exit.",
    )
    parser.add_argument(
        "--print-completion",
        action=_Completion,
        choices=SHELLS,
        default=argparse.SUPPRESS,
        help="Print a script that completes commands and options in a shell, and exit.",
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=CommandParser, prog="mimo"
    )
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, command=command)
    return parser


class _Version(argparse.Action):
    """The version of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it and exit."""
        sys.stdout.write(f"mimo-v2-flash {__version__}\n")
        parser.exit()


class _Completion(argparse.Action):
    """A completion script, for which all commands are imported: nothing is when Tab is pressed."""

    def __call__(
        self, parser: argparse.ArgumentParser, _: Any, shell: Any, __: str | None = None
    ) -> None:
        """Print the script and exit."""
        shtab = import_module("shtab")
        commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        for command in commands.choices.values():
            for action in command.load()._actions:
                if action.type in FILE_TYPES:
                    action.complete = shtab.FILE
        sys.stdout.write(shtab.complete(parser, shell) + "\n")
        parser.exit()
