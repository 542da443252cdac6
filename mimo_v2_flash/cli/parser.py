"""Parser of one command: it imports the command when it is used, and its errors are one line."""

import argparse
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from rich_argparse import RawDescriptionRichHelpFormatter

from .commands import Command
from .entry import CommandError
from .option_types import STDOUT, output_file

__all__ = ["CommandParser", "OneLineParser", "close_matches"]


class HelpFormatter(RawDescriptionRichHelpFormatter):
    """Help in colours on a terminal and in plain text elsewhere; brackets are no markup."""

    group_name_formatter = str
    help_markup = text_markup = False


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage of every option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise CommandError, whose message names the option."""
        raise CommandError(message, self.prog)


class CommandParser(OneLineParser):
    """The parser of one command, which declares its options when it is first used.

    Parameters
    ----------
    command
        The command, whose module is imported then.

    Attributes
    ----------
    spelled
        The options that were typed with a value, as they were typed, by their destination.
    """

    def __init__(self, *, command: Command, **options: Any) -> None:
        super().__init__(**options)
        self.command, self.spelled = command, dict[str, str]()
        self.register("action", None, _Store)
        self._is_loaded = False

    def load(self) -> "CommandParser":
        """Declare the options of the command, once, and return this parser."""
        if not self._is_loaded:
            self._is_loaded = True
            module = self.command.load()
            self.description = module.__doc__
            module.add_arguments(self)
            _add_output_arguments(self)
        return self

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the options, and this parser with them; an unknown option is an error."""
        try:
            options, unknown = super(CommandParser, self.load()).parse_known_args(args, namespace)
        except CommandError as error:  # "... is required" hides that it is there, misspelled
            options, unknown = argparse.Namespace(), self._misspelled(args or ())
            if not unknown or "required" not in str(error):
                raise
        if unknown:
            visible = (action for action in self._actions if action.help != argparse.SUPPRESS)
            names = [name for action in visible for name in action.option_strings]
            self.error(f"unknown: {shlex.join(unknown)}{close_matches(unknown[0], names)}")
        options.parser = self
        return options, []

    def _misspelled(self, args: Sequence[str]) -> list[str]:
        """Return the words that begin as a long option and are the beginning of none."""
        words = [word.partition("=")[0] for word in args if word.startswith("--")]
        names = list(self._option_string_actions)
        return [word for word in words if not any(name.startswith(word) for name in names)]


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every command: its result as JSON, and tracebacks."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json",
        nargs="?",
        type=output_file,
        const=STDOUT,
        metavar="FILE",
        help="Write all numbers as one JSON object: to FILE, or without one to standard output, "
        "where nothing else is then (default: no JSON).",
    )
    group.add_argument(
        "--debug", action="store_true", help="Show where an error comes from, as a traceback."
    )


class _Store(argparse.Action):
    """The action "store", which notes how its option was typed."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set the value of the option."""
        if self.nargs is None and isinstance(values, list):  # argparse's value of "--option=--"
            raise argparse.ArgumentError(self, "expected one argument")
        setattr(namespace, self.dest, values)
        if isinstance(parser, CommandParser) and option_string:
            parser.spelled[self.dest] = option_string


def close_matches(word: str, names: Iterable[str]) -> str:
    """Return the end of a message: the names that `word` may have been meant as, if any."""
    near = get_close_matches(word.partition("=")[0], list(names))
    return f"; did you mean {' or '.join(near)}?" if near else ""
