"""Compare two traces of the same tokens, and name the first tensor that diverges.

Tensors are compared in the order of computation; a divergence after the first may only be its
consequence. The exit status is 0 if all tensors agree, 1 if one diverges, and 2 if the traces
cannot be compared.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mimo_v2_flash.tracing.difference import (
    NOTHING,
    Difference,
    difference_of,
    difference_of_expert_ids,
    difference_per_expert,
)
from mimo_v2_flash.tracing.trace_file import TraceFile, open_trace
from mimo_v2_flash.tracing.trace_tensors import EXPERT_IDS, PER_EXPERT, sort_key, split_name

from .console import console, table
from .result import Result

__all__ = ["add_arguments", "run"]

SAME_IN_BOTH = ("tokens", "positions")

NamedDifferences = list[tuple[str, Difference]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("a", type=Path, metavar="A", help="Reference trace.")
    parser.add_argument("b", type=Path, metavar="B", help="Trace to compare with the reference.")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="Largest difference that agrees, relative to the range of A's tensor (default: "
        "0.001).",
    )


def run(a: Path, b: Path, tolerance: float) -> Result:
    """Compare, print the table and the verdict, and return all differences."""
    if not tolerance >= 0:
        raise ValueError(f"--tolerance {tolerance} must be 0 or more")
    with ExitStack() as stack:
        first, second = (stack.enter_context(open_trace(path)) for path in (a, b))
        names = _common_names(first, second)
        differences = [(name, _difference(name, first, second, tolerance)) for name in names]
        out, header = console(), _header(first, second, names)
    _print_header(out, header)
    _print_table(out, differences)
    out.print(_verdict(differences), soft_wrap=True)
    diverged = [name for name, difference in differences if difference.diverges]
    numbers = {
        "tolerance": tolerance,
        "first_divergence": next(iter(diverged), None),
        "tensors": [
            {"name": name, **difference._asdict(), "diverges": difference.diverges}
            for name, difference in differences
        ],
    }
    return Result(header | numbers, 1 if diverged else 0)


def _common_names(a: TraceFile, b: TraceFile) -> list[str]:
    """Return the tensors to compare, in the order of computation; tokens and shapes are equal."""
    common = a.shapes.keys() & b.shapes.keys()
    keys = {name: key for name in common if (key := sort_key(name)) and _ids(name) in common}
    names = sorted(keys, key=keys.__getitem__)
    if not set(names) - set(SAME_IN_BOTH):
        raise ValueError(f"{a.path} and {b.path} have no tensor of a trace in common")
    for name in names:
        if a.shapes[name] != b.shapes[name]:
            raise ValueError(
                f"{name} is {a.shapes[name]} in {a.path}, but {b.shapes[name]} in {b.path}"
            )
    for name in filter(names.__contains__, SAME_IN_BOTH):
        unequal = np.flatnonzero(a[name] != b[name])
        if len(unequal):
            token = int(unequal[0])
            raise ValueError(
                f"{name} differ at index {token}: {a[name][token]} in {a.path}, "
                f"but {b[name][token]} in {b.path}; only traces of the same tokens can be compared"
            )
    return [name for name in names if name not in SAME_IN_BOTH]


def _ids(name: str) -> str:
    """Return the tensor of expert ids that a per-expert tensor depends on, else `name`."""
    layer, inside = split_name(name)
    return f"{layer}{EXPERT_IDS}" if inside in PER_EXPERT else name


def _difference(name: str, a: TraceFile, b: TraceFile, tolerance: float) -> Difference:
    _, inside = split_name(name)
    if inside not in PER_EXPERT:
        return difference_of(a[name], b[name], tolerance)
    expert_ids = a.integers(_ids(name)), b.integers(_ids(name))
    if inside == EXPERT_IDS:
        return difference_of_expert_ids(*expert_ids)
    return difference_per_expert(a[name], b[name], *expert_ids, tolerance)


def _header(a: TraceFile, b: TraceFile, names: list[str]) -> dict[str, Any]:
    """Return the two traces, the tensors that are not compared, and differing config fields."""
    not_compared = (a.shapes.keys() & b.shapes.keys()).difference(names, SAME_IN_BOTH)
    return {
        "a": {"file": a.path, "made_by": a.made_by},
        "b": {"file": b.path, "made_by": b.made_by},
        "only_in_a": _counted(a.shapes.keys() - b.shapes.keys()),
        "only_in_b": _counted(b.shapes.keys() - a.shapes.keys()),
        "not_compared": _counted(not_compared),
        "config_differences": {
            field: [a.config[field], b.config[field]]
            for field in sorted(a.config.keys() & b.config.keys())
            if a.config[field] != b.config[field]
        },
    }


def _print_header(out: Console, header: dict[str, Any]) -> None:
    for letter in "AB":
        out.print(
            "{0}: {file}, by {made_by}".format(letter, **header[letter.lower()]), soft_wrap=True
        )
        for name, count in header[f"only_in_{letter.lower()}"].items():
            out.print(f"only in {letter}: {name} ({count})", soft_wrap=True)
    for name, count in header["not_compared"].items():
        out.print(f"not compared: {name} ({count})", soft_wrap=True)
    for field, (in_a, in_b) in header["config_differences"].items():
        out.print(f"configs differ: {field} is {in_a} in A, {in_b} in B")


def _counted(names: Iterable[str]) -> dict[str, int]:
    """Return names with `*` for the layer index, and in how many layers each occurs."""
    split = map(split_name, sorted(names))
    return Counter(f"layers.*.{inside}" if layer else inside for layer, inside in split)


def _print_table(out: Console, differences: NamedDifferences) -> None:
    columns = ("largest", "of range", "1 - cosine", "first token")
    report = table("Differences of B from A", ("tensor",), columns)
    report.add_column("")
    report.columns[0].no_wrap = True
    for name, each in differences:
        numbers = map(_number, (each.largest, each.relative, 1 - each.cosine))
        notes = filter(None, ("DIVERGES" if each.diverges else "", each.note))
        report.add_row(name, *numbers, str(each.token) if each.diverges else "", ", ".join(notes))
    out.print(report)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1e}"


def _verdict(differences: NamedDifferences) -> str:
    """Return one sentence: the first divergence, or the largest difference if there is none."""
    diverged = [index for index, (_, difference) in enumerate(differences) if difference.diverges]
    before = differences[: diverged[0]] if diverged else differences
    name, largest = max(before, key=lambda item: item[1].relative, default=("", NOTHING))
    if not diverged:
        size = f"{largest.relative:.1e} of the range, in {name}"
        return f"A and B agree in {len(differences)} tensors; the largest difference is {size}"
    name, difference = differences[diverged[0]]
    of_range = "" if name.endswith(EXPERT_IDS) else f"{difference.relative:.1e} of its range"
    size = ", ".join(filter(None, (of_range, difference.note)))
    agrees = (
        f"everything before agrees within {largest.relative:.1e}" if before else "nothing is before"
    )
    return f"first divergence: {name}, {size}, first at token {difference.token}; {agrees}"
