"""Console output: tables and progress bars on a terminal, plain lines elsewhere.

What a command is run for goes to standard output: the text that a model writes, and nothing beside
it; else the tables of the report. All else goes to standard error: progress, settings, the report
that accompanies a text, errors. With `--json` alone standard output has the object and nothing
else (`session.py`).
"""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

__all__ = ["amount", "console", "peak_memory", "progress", "progress_of_bytes", "table"]

PLAIN_WIDTH, PLAIN_HEIGHT = 100, 25


def console(stream: TextIO | None = None) -> Console:
    """Return a console for `stream`, by default standard output."""
    out = stream or sys.stdout
    width, height = (None, None) if out.isatty() else (PLAIN_WIDTH, PLAIN_HEIGHT)
    return _Console(file=out, width=width, height=height, highlight=False)


class _Console(Console):
    """A console whose lines are whole but on a terminal; it leaves a closed pipe to `entry.py`."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print text as it is, brackets too, and tables in the console's width."""
        is_whole = not self.is_terminal and all(isinstance(each, str) for each in objects)
        super().print(*objects, **{"soft_wrap": is_whole, "markup": False} | options)

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  rich calls this where it has caught BrokenPipeError


def table(
    title: str,
    left: tuple[str, ...],
    right: tuple[str, ...] = (),
    rows: Iterable[tuple[str, ...]] = (),
) -> Table:
    """Return a table: left-aligned columns (`left`), then right-aligned ones (`right`)."""
    filled = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in left:
        filled.add_column(name)
    for name in right:
        filled.add_column(name, justify="right")
    for row in rows:
        filled.add_row(*row)
    return filled


def progress(
    what: str, *, total: int | None, unit: str = ""
) -> AbstractContextManager[Callable[[int], None]]:
    """Show the progress of a task; the context is a callback that takes each advance, in `unit`.

    A terminal gets a bar with the remaining time, anything else one line at the end.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return _bar(what, total, *columns, TextColumn(unit), TimeRemainingColumn())


def progress_of_bytes(what: str, *, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show bytes, rate and remaining time; the context is a callback that takes bytes."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    return _bar(what, total, *columns, TransferSpeedColumn(), TimeRemainingColumn())


@contextmanager
def _bar(what: str, total: int | None, *columns: ProgressColumn) -> Iterator[Callable[[int], None]]:
    out, start = console(sys.stderr), time.perf_counter()
    with Progress(*columns, console=out, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
    if not out.is_terminal:
        out.print(f"{what}: {time.perf_counter() - start:.1f} s")


def amount(count: int) -> str:
    """Return a number of bytes as text, such as "3.2 GB", in powers of 1,000."""
    return decimal(count)


def peak_memory() -> int:
    """Return the peak resident memory of this process, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
