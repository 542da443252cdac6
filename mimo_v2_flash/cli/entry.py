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

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

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
    out, err = _Output(sys.stdout), sys.stderr or StringIO()  # a closed one is None
    with redirect_stdout(out), redirect_stderr(err), _one_line_warnings(prog):
        try:
            return _attempt(prog, parse, words)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            return BROKEN_PIPE
        finally:
            _end(sys.stdout)
            _end(sys.stderr)


def _attempt(prog: str, parse: Callable[[list[str]], Invocation], words: list[str]) -> int:
    """Return the exit status; an error is a line, but for a pipe that nobody reads."""
    message = partial(as_typed, options={}, spelled={})
    line = partial(_line, prog=prog, rank=_rank(os.environ), message=message)
    try:
        sys.stdout.flush()
        try:
            parser, options = parse(words)
            message = partial(as_typed, options=options, spelled=parser.spelled)
            rank = _rank(os.environ) if parser.command.on_ranks else ""
            line = partial(_line, prog=parser.prog, rank=rank, message=message)
            status = int(import_module(".session", __package__).run(parser, options, os.environ))
        except SystemExit as end:  # of --help and --version
            status = int(end.code or 0)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        raise
    except Exception as error:
        return _report(error, line, is_debugged=DEBUG in words)


def _report(error: Exception, line: Callable[[Exception], str], *, is_debugged: bool) -> int:
    """Write the line of an error in one piece, and return the exit status."""
    with suppress(OSError):  # of standard error itself: the status is all that is left
        if is_debugged:
            traceback.print_exception(error)
        sys.stderr.write(f"{line(error)}\n")
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


class _Output:
    """Standard output, whose errors name it; None if it is closed."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, as the stream does."""
        return self._call("write", text)

    def flush(self) -> None:
        """Write what the stream holds."""
        self._call("flush")

    def _call(self, method: str, *arguments: str) -> Any:
        try:
            if self._stream is None:  # the next file that is opened would be it
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return getattr(self._stream, method)(*arguments)
        except OSError as error:
            error.filename = "standard output"
            raise


def _end(stream: TextIO) -> None:
    """Write what a stream holds; what cannot be written goes nowhere.

    The interpreter flushes it once more at its end, and would say so in lines of its own.
    """
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _rank(env: Mapping[str, str]) -> str:
    """Return the words that name this rank, if a launcher's variables say that there are several.

    The line may be about these variables: they are not trusted here.
    """
    rank, ranks = env.get("RANK", ""), env.get("WORLD_SIZE", "")
    return f"rank {rank}: " if rank.isdecimal() and ranks.isdecimal() and ranks != "1" else ""


def _line(error: Exception, prog: str, rank: str, message: Callable[[Exception], str]) -> str:
    """Return the line of an error: program, rank if there are several, and what is wrong."""
    prog = getattr(error, "prog", None) or prog
    if isinstance(error, EXPECTED):
        return " ".join(f"{prog}: {rank}{message(error)}".splitlines())
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{prog}: {rank}a fault of the program: {text} ({DEBUG} shows where)"
