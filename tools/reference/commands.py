"""Page of the commands: every option of each, from its parser."""

import argparse
from collections.abc import Iterator

from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.parser import CommandParser

from .markdown import code, escape_html, table

__all__ = ["commands_page"]

BEGINNING = """# Commands and options

`mimo COMMAND --help` prints the same. [The command line](../command-line.md) says what goes where,
and has the exit statuses.
"""


def commands_page() -> str:
    """Return the page."""
    return "\n".join([BEGINNING, *map(_section, COMMANDS)])


def _section(name: str) -> str:
    parser = CommandParser(prog=f"mimo {name}", command=COMMANDS[name]).load()
    description = escape_html((parser.description or "").strip())
    return "\n".join([f"## mimo {name}\n\n{description}\n", *_groups(parser)])


def _groups(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a table for each group of options that has any."""
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
        rows = [(code(_spelling(action)), _help(action, parser.prog)) for action in actions]
        if rows:
            yield f"**{group.title}**\n"
            yield table(("option", "meaning"), rows)


def _spelling(action: argparse.Action) -> str:
    """Return the names of an option and its value, or the name of a positional argument."""
    choices = "|".join(map(str, action.choices)) if isinstance(action.choices, list | tuple) else ""
    value = str(action.metavar or choices or action.dest.upper().replace("-", "_"))
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def _help(action: argparse.Action, prog: str) -> str:
    return escape_html((action.help or "") % {**vars(action), "prog": prog})
