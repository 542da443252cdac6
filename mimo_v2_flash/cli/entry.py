"""Entry to every command, for `mimo` and the scripts: what happens becomes an exit status.

| status | meaning | on standard error |
|---|---|---|
| 0 | done | |
| 1 | done; the answer is no: a check failed, it does not fit, traces diverge | |
| 2 | bad input, or something is missing | one line |
| 70 | a fault of the program | one line |
| 130 | interrupted | |
| 141 | nobody reads the output | |

A warning is a line on standard error as well.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from .spelling import as_typed

if TYPE_CHECKING:
    from .parser import CommandParser

__all__ = ["CommandError", "Invocation", "launch"]

BAD_INPUT, FAULT, INTERRUPTED, BROKEN_PIPE = 2, 70, 130, 141
DEBUG = "--debug"


class CommandError(Exception):
    """An error that is no fault of the program; `prog` is its name in the line, if it is known."""

    def __init__(self, message: str, prog: str | None = None) -> None:
        super().__init__(message)
        self.prog = prog


EXPECTED = (CommandError, ImportError, MemoryError, OSError, ValueError)


class Invocation(NamedTuple):
    """A command with its options, and the parser that read them."""

    parser: "CommandParser"
    options: dict[str, Any]


def launch(
    prog: str, parse: Callable[[list[str]], Invocation], arguments: Sequence[str] | None = None
) -> int:
    """Run the command that `parse` reads from the arguments, and return the exit status.

    Parameters
    ----------
    prog
        Name of the program, for errors before there is a command.
    parse
        Function from arguments to a command; it may raise CommandError, or SystemExit after help.
    arguments
        Arguments of the program, by default those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _one_line_warnings(prog):
            status = _attempt(prog, parse, words)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _attempt(prog: str, parse: Callable[[list[str]], Invocation], words: list[str]) -> int:
    """Return the exit status; every exception is one, but for a pipe that nobody reads."""
    message: Callable[[Exception], str] = str
    try:
        parser, options = parse(words)
        prog, message = parser.prog, partial(as_typed, options=options, spelled=parser.spelled)
        return int(import_module(".session", __package__).run(parser, options, os.environ))
    except BrokenPipeError:
        raise
    except SystemExit as end:  # of --help and --version
        return int(end.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if DEBUG in words:
            traceback.print_exception(error)
        sys.stderr.write(f"{_line(error, prog, message)}\n")
        return BAD_INPUT if isinstance(error, EXPECTED) else FAULT


@contextmanager
def _one_line_warnings(prog: str) -> Iterator[None]:
    """Print each warning as one line on standard error, without the place in the code."""
    saved = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: (
        f"{prog}: warning: {' '.join(str(message).split())}\n"
    )
    try:
        yield
    finally:
        warnings.formatwarning = saved


def _line(error: Exception, prog: str, message: Callable[[Exception], str]) -> str:
    """Return the line of an error: program, rank if there are several, and what is wrong."""
    prog = getattr(error, "prog", None) or prog
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = f"rank {os.environ['RANK']}: " if ranks > 1 else ""
    if isinstance(error, EXPECTED):
        return f"{prog}: {rank}{message(error)}"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{prog}: {rank}a fault of the program: {text} ({DEBUG} shows where)"
