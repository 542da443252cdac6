"""`prepare --format gguf`: a checkpoint's folder as a file that llama.cpp loads."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.subset import keep_experts, keep_layers
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.gguf_writer import DTYPES, GGUFPlan, plan_gguf
from mimo_v2_flash.convert.isq_load import load_isq
from mimo_v2_flash.gguf_files import as_folder
from mimo_v2_flash.gguf_files.file import SUFFIX
from mimo_v2_flash.parallel import ALONE
from mimo_v2_flash.parallel_config import UNSHARDED

from .console import amount, console, progress_of_bytes, table
from .entry import CommandError
from .isq_options import isq_report
from .option_types import positive_number
from .result import Result

__all__ = ["add_arguments", "run"]

GIGABYTE = 10**9
UNUSED = {  # options of prepared weights, and their defaults
    "--model": None,
    "--target": "cpu",
    "--expert-parallel": None,
    "--tensor-parallel": 1,
    "--resume": False,
    "--verify": False,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of GGUF files."""
    parser.add_argument(
        "--format",
        choices=("safetensors", "gguf"),
        default="safetensors",
        help="Format of the prepared weights: safetensors, or a file for llama.cpp, "
        "OUTPUT/NAME.gguf, of --dtype float32 or bfloat16 or of --isq (default: safetensors).",
    )
    parser.add_argument(
        "--split-size",
        type=positive_number,
        metavar="GB",
        help="Split a GGUF file into parts of at most this many gigabytes of tensors "
        "(default: one file).",
    )


def run(
    checkpoint: Path | None,
    output: Path,
    dtype: str,
    request: IsqRequest,
    experts: list[int] | None,
    num_layers: int | None,
    split_size: float | None,
    dry_run: bool,
    *others: Any,
) -> Result:
    """Plan the file, print its sizes, write it, and return sizes and times.

    `others` are the values of options that GGUF files have no use for, in the order of `UNUSED`.
    """
    if request.text and dtype not in DTYPES:
        dtype = "bfloat16"  # of what is not quantized
    folder = _checked(checkpoint, dtype, others)
    plan = _plan(folder, output, dtype, request, experts, num_layers)
    sizes = _print_sizes(plan)
    if dry_run:
        return Result(sizes)
    if plan.path.exists():
        raise CommandError(f"{plan.path} exists already; remove it, or choose another --output")
    start = time.perf_counter()
    with progress_of_bytes(str(folder), total=plan.nbytes) as advance:
        files = plan.write(advance, split_bytes=round((split_size or 0) * GIGABYTE))
    console().print(f"{', '.join(map(str, files))}: complete")
    return Result(sizes | {"files": files, "seconds": time.perf_counter() - start})


def _checked(checkpoint: Path | None, dtype: str, others: tuple[Any, ...]) -> Path:
    """Return the folder; CommandError, which names the option, if one is missing or of no use."""
    for (option, default), value in zip(UNUSED.items(), others, strict=True):
        if value != default:
            raise CommandError(f"{option}: --format gguf has no use for it")
    if checkpoint is None:
        raise CommandError(
            "--format gguf reads a folder, --checkpoint: prepare the repository's weights first"
        )
    if dtype not in DTYPES:
        raise CommandError(
            f"--dtype {dtype}: --format gguf takes {' or '.join(DTYPES)}, or --isq TYPE"
        )
    return checkpoint


def _plan(
    checkpoint: Path,
    output: Path,
    dtype: str,
    request: IsqRequest,
    experts: list[int] | None,
    num_layers: int | None,
) -> GGUFPlan:
    config = MiMoConfig.from_pretrained(checkpoint)
    weights = load_isq(
        checkpoint, config, request, UNSHARDED, cache=None, report=isq_report, group=ALONE
    )
    if num_layers is not None:
        weights, config = keep_layers(weights, config, num_layers)
    weights, config = keep_experts(weights, config, experts)
    if weights.mtp:
        console().print(f"MTP heads left out: {len(weights.mtp)}")
    path = output / f"{checkpoint.resolve().stem}{SUFFIX}"
    return plan_gguf(path, config, weights, dtype, as_folder(checkpoint))


def _print_sizes(plan: GGUFPlan) -> dict[str, Any]:
    by_type: dict[str, int] = {}
    for tensor in plan.tensors:
        by_type[tensor.type] = by_type.get(tensor.type, 0) + tensor.nbytes
    rows = [(kind, amount(size)) for kind, size in by_type.items()]
    existing = next(path for path in plan.path.absolute().parents if path.exists())
    if (free := shutil.disk_usage(existing).free) < plan.nbytes:
        raise CommandError(f"{plan.path}: {amount(plan.nbytes)}, on the disk are {amount(free)}")
    console().print(f"{plan.path}, to write:")
    console().print(table("", ("type",), ("size",), rows))
    return {
        "tensors": len(plan.tensors),
        "bytes": plan.nbytes,
        "bytes_by_type": by_type,
    }
