"""Options of in-situ quantization, and its report: types and sizes, time and memory."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.isq_table import IsqRow, sizes_by_form
from mimo_v2_flash.convert.isq_load import IsqJob, estimate_seconds
from mimo_v2_flash.quantization.isq_types import isq_name

from .console import amount, console, peak_memory, progress_of_bytes, table

__all__ = ["add_isq_arguments", "add_type_arguments", "isq_numbers", "isq_report", "print_table"]


def add_isq_arguments(group: Any) -> None:
    """Declare what a model is quantized to while it is loaded."""
    add_type_arguments(group)
    group.add_argument(
        "--isq-cache",
        type=Path,
        metavar="FOLDER",
        help="Folder that keeps weights that --isq or --topology quantized, so that the next start "
        "maps them (default: memory alone).",
    )


def add_type_arguments(group: Any) -> None:
    """Declare the type and the topology."""
    group.add_argument(
        "--isq",
        metavar="TYPE",
        help="Type that weights are quantized to, by mistral.rs's names and numbers: Q8_0 or 8, "
        "Q6K, Q4K, Q3K; int8, int4, MXFP4, or the checkpoint's 8-bit floats (default: as stored).",
    )
    group.add_argument(
        "--topology",
        type=Path,
        metavar="FILE",
        help="YAML file of types by layers and names of weights, which decide before --isq "
        "(default: none).",
    )


@contextmanager
def isq_report(job: IsqJob) -> Iterator[Callable[[int], None]]:
    """Say on standard error what is quantized and how long it takes; then how much memory it took.

    It is the `isq_report` of `load_model`.
    """
    print_table(job.table)
    seconds = estimate_seconds(job.table)
    console(sys.stderr).print(f"quantizing {amount(job.bytes_to_read)}: about {seconds:.0f} s")
    with progress_of_bytes("quantized", total=job.bytes_to_read) as advance:
        yield advance
    console(sys.stderr).print(f"peak memory: {amount(peak_memory())}")


def print_table(rows: Any) -> None:
    """Print, on standard error, how many weights and bytes each rule brings to each type."""
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        counts.setdefault((isq_name(row.form or row.stored), row.rule), []).append(row.nbytes)
    lines = [
        (kind, rule, f"{len(sizes):,}", amount(sum(sizes)))
        for (kind, rule), sizes in sorted(counts.items(), key=lambda item: -sum(item[1]))
    ]
    columns = ("type", "rule"), ("weights", "bytes")
    console(sys.stderr).print(table("quantization", *columns, lines))


def isq_numbers(rows: Any) -> dict[str, Any]:
    """Return the table as numbers of `--json`."""
    return {
        "bytes_by_type": {isq_name(form): size for form, size in sizes_by_form(rows).items()},
        "weights": [_numbers(row) for row in rows],
    }


def _numbers(row: IsqRow) -> dict[str, Any]:
    kind = isq_name(row.form or row.stored)
    return {"name": row.name, "type": kind, "bytes": row.nbytes, "rule": row.rule}
