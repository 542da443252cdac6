"""Compare two traces of the same tokens, and name the first tensor in which they part.

Tensors are compared in the order of computing; what comes after the first divergence may only be
its consequence. The exit status is 0 if all agree, 1 if one diverges, 2 if they cannot be compared.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console

from .console import console, table
from .difference import (
    NOTHING,
    Difference,
    difference_of,
    difference_of_choices,
    difference_per_expert,
)
from .trace_file import TraceFile, open_trace
from .trace_tensors import CHOICE, PER_EXPERT, sort_key, split_name

__all__ = ["add_arguments", "run"]

SAME_IN_BOTH = ("tokens", "positions")

Found = list[tuple[str, Difference]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    parser.add_argument("a", type=Path, metavar="A", help="a trace, the one to go by")
    parser.add_argument("b", type=Path, metavar="B", help="the trace in question")
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="largest difference, of A's range (0.001)"
    )


def run(a: Path, b: Path, tolerance: float) -> int:
    """Compare, print the table and the verdict, and return the exit status."""
    if not tolerance >= 0:
        raise ValueError(f"--tolerance {tolerance} must be 0 or more")
    with ExitStack() as stack:
        first, second = (stack.enter_context(open_trace(path)) for path in (a, b))
        names = _common_names(first, second)
        found = [(name, _difference(name, first, second, tolerance)) for name in names]
        out = console()
        _introduce(out, first, second, names)
    _tabulate(out, found)
    out.print(_verdict(found), soft_wrap=True)
    return 1 if any(difference.diverges for _, difference in found) else 0


def _common_names(a: TraceFile, b: TraceFile) -> list[str]:
    """Return what can be compared, in the order of computing, once tokens and shapes are equal."""
    common = a.shapes.keys() & b.shapes.keys()
    names = sorted(
        (name for name in common if sort_key(name) and _ids(name) in common), key=_sort_key
    )
    if not set(names) - set(SAME_IN_BOTH):
        raise ValueError(f"{a.path} and {b.path} have no tensor of a trace in common")
    for name in (*SAME_IN_BOTH, *names):
        if name in names and a.shapes[name] != b.shapes[name]:
            raise ValueError(
                f"{name} is {a.shapes[name]} in {a.path}, but {b.shapes[name]} in {b.path}"
            )
    for name in filter(names.__contains__, SAME_IN_BOTH):
        other = np.flatnonzero(a[name] != b[name])
        if len(other):
            token = int(other[0])
            raise ValueError(
                f"{name} differ: at {token}, {a[name][token]} in {a.path}, "
                f"but {b[name][token]} in {b.path}; only traces of the same can be compared"
            )
    return [name for name in names if name not in SAME_IN_BOTH]


def _ids(name: str) -> str:
    """Return the name of the ids that a tensor is compared by: of experts, or its own."""
    layer, inside = split_name(name)
    return f"{layer}{CHOICE}" if inside in PER_EXPERT else name


def _sort_key(name: str) -> tuple[int, int, int]:
    return sort_key(name) or (0, 0, 0)


def _difference(name: str, a: TraceFile, b: TraceFile, tolerance: float) -> Difference:
    _, inside = split_name(name)
    if inside not in PER_EXPERT:
        return difference_of(a[name], b[name], tolerance)
    chosen = a.integers(_ids(name)), b.integers(_ids(name))
    if inside == CHOICE:
        return difference_of_choices(*chosen)
    return difference_per_expert(a[name], b[name], *chosen, tolerance)


def _introduce(out: Console, a: TraceFile, b: TraceFile, names: list[str]) -> None:
    """Say what is compared, what is not, and which fields of the configs differ."""
    for letter, trace, other in (("A", a, b), ("B", b, a)):
        out.print(f"{letter}: {trace.path}, by {trace.made_by}", soft_wrap=True)
        for name, count in _counted(trace.shapes.keys() - other.shapes.keys()):
            out.print(f"only in {letter}: {name} ({count})", soft_wrap=True)
    for name, count in _counted(
        (a.shapes.keys() & b.shapes.keys()).difference(names, SAME_IN_BOTH)
    ):
        out.print(f"not compared: {name} ({count})", soft_wrap=True)
    for field in sorted(a.config.keys() & b.config.keys()):
        if a.config[field] != b.config[field]:
            out.print(f"configs differ: {field} is {a.config[field]} in A, {b.config[field]} in B")


def _counted(names: Iterable[str]) -> list[tuple[str, int]]:
    """Return names with `*` for the number of their layer, and how often each is there."""
    split = map(split_name, sorted(names))
    return list(Counter(f"layers.*.{inside}" if at else inside for at, inside in split).items())


def _tabulate(out: Console, found: Found) -> None:
    columns = ("largest", "of range", "1 - cosine", "first token")
    shown = table("Differences of B from A", ("tensor",), columns)
    shown.add_column("")
    shown.columns[0].no_wrap = True
    for name, each in found:
        numbers = map(_number, (each.largest, each.share, 1 - each.cosine))
        said = filter(None, ("DIVERGES" if each.diverges else "", each.note))
        shown.add_row(name, *numbers, str(each.token) if each.diverges else "", ", ".join(said))
    out.print(shown)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1e}"


def _verdict(found: Found) -> str:
    """Return one sentence: where the traces part, or by how little they do not."""
    diverged = [index for index, (_, difference) in enumerate(found) if difference.diverges]
    before = found[: diverged[0]] if diverged else found
    at, most = max(before, key=lambda item: item[1].share, default=("", NOTHING))
    if not diverged:
        share = f"{most.share:.1e} of the range, in {at}"
        return f"A and B agree in {len(found)} tensors; the largest difference is {share}"
    name, difference = found[diverged[0]]
    of_range = "" if name.endswith(CHOICE) else f"{difference.share:.1e} of its range"
    size = ", ".join(filter(None, (of_range, difference.note)))
    agrees = f"everything before agrees within {most.share:.1e}" if before else "nothing is before"
    return f"first divergence: {name}, {size}, first at token {difference.token}; {agrees}"
