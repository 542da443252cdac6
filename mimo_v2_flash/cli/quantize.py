"""Quantize a checkpoint: write prepared weights in other formats, or measure their errors.

What is quantized to what is as of --isq and --topology of every command that runs a model. --error
writes nothing; it reports how far each weight would be from what the checkpoint says.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.isq_error import IsqError, plan_errors
from mimo_v2_flash.quantization import HUB_FORMAT
from mimo_v2_flash.quantization.isq_types import isq_name

from . import prepare
from .console import console, progress_of_bytes, table
from .entry import CommandError
from .isq_options import add_type_arguments, print_table
from .result import Result

__all__ = ["add_arguments", "run"]

NUMBER = re.compile(r"\.\d+(?=\.)")  # of a layer or an expert in a weight's name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="Folder of the checkpoint to read."
    )
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        metavar="FOLDER",
        help="Folder that the quantized weights are written to (no default; not with --error).",
    )
    add_type_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="Continue an interrupted run.")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Print what would be read and written, and write nothing.",
    )
    parser.add_argument(
        "--error",
        action="store_true",
        help="Measure the error of each weight, and write nothing.",
    )


def run(
    model: Path,
    output: Path | None,
    isq: str | None,
    topology: Path | None,
    resume: bool,
    dry_run: bool,
    error: bool,
) -> Result:
    """Write the weights, or measure their errors, and return sizes and times, or errors."""
    request = IsqRequest.of(isq, topology)
    if not request.text:
        raise CommandError("one of --isq and --topology is required")
    if (output is None) != error:
        raise CommandError("one of --output and --error is required")
    source, config = FolderSource(model), MiMoConfig.from_pretrained(model)
    if output is None:
        return _measure(source, config, request)
    encoding = Encoding(HUB_FORMAT, "cpu", request)
    sizes = {"expert_parallel": 1, "tensor_parallel": 1}
    job = prepare.plan(source, config, output, encoding, None, None, mtp=True, **sizes)
    return prepare.finish(job, dry_run=dry_run, resume=resume)


def _measure(source: FolderSource, config: MiMoConfig, request: IsqRequest) -> Result:
    """Print the errors of weights of one kind, and return all."""
    job = plan_errors(source, config, request)
    print_table(job.table)
    with progress_of_bytes(source.name, total=job.values.bytes_to_read) as advance:
        errors = job.run(advance)
    kinds: dict[tuple[str, str], list[IsqError]] = defaultdict(list)
    for each in errors:
        kinds[NUMBER.sub("", each.name), isq_name(each.form)].append(each)
    columns = ("weights", "type"), ("number", "mean rms", "largest rms", "largest of range")
    console().print(table("errors", *columns, (_row(*kind, of) for kind, of in kinds.items())))
    numbers: dict[str, Any] = {"model": source.name, "weights": [_numbers(e) for e in errors]}
    return Result(numbers)


def _row(weights: str, kind: str, errors: list[IsqError]) -> tuple[str, ...]:
    rms = [error.relative_rms for error in errors]
    largest = max(error.largest_of_range for error in errors)
    return (
        weights,
        kind,
        f"{len(rms):,}",
        f"{fmean(rms):.2e}",
        f"{max(rms):.2e}",
        f"{largest:.2e}",
    )


def _numbers(error: IsqError) -> dict[str, Any]:
    numbers = error._asdict()
    return {"name": numbers.pop("name"), "type": isq_name(numbers.pop("form"))} | numbers
