"""Renamed command-line options: the old name still works, hidden from `--help`."""

import argparse
from typing import Any

__all__ = ["add_renamed_option"]


def add_renamed_option(parser: Any, name: str, old_name: str, **options: Any) -> None:
    """Declare the option `name`, and `old_name` as a hidden alias of it."""
    action = parser.add_argument(name, **options)
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument(old_name, dest=action.dest, **(options | hidden))
