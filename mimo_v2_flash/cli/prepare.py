"""Prepare weights: select experts and layers of a checkpoint, convert them, and write shards.

The checkpoint is a folder, or a repository on the Hugging Face hub, of which only the needed bytes
are downloaded. --resume continues an interrupted run.
"""

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.hub import IN_FLIGHT, HubSource
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.source import FolderSource, Source
from mimo_v2_flash.checkpoint.subset import check_experts
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.convert.isq_load import warn_of_topology
from mimo_v2_flash.convert.job import ConversionJob, plan_conversion_job
from mimo_v2_flash.quantization import HUB_FORMAT

from . import gguf_output
from . import verify as verification
from .console import amount, console, progress_of_bytes, table
from .entry import CommandError
from .isq_options import add_type_arguments, isq_numbers, print_table
from .option_types import positive
from .result import Result

__all__ = [
    "MODEL",
    "OUTPUT",
    "add_arguments",
    "add_subset_arguments",
    "finish",
    "from_ranges",
    "make",
    "plan",
    "print_left_out",
    "run",
    "sizes",
]

MODEL = "XiaomiMiMo/MiMo-V2-Flash"
OUTPUT = Path("tmp_mimo_weights")
WORKERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="Folder of the checkpoint to read, with safetensors files and a config.json "
        "(no default; to --verify the source that --output names).",
    )
    source.add_argument(
        "--model",
        help=f"Repository on the Hugging Face hub, such as {MODEL} (no default, as --checkpoint).",
    )
    add_subset_arguments(parser)
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default="cpu",
        help="FP8 range of the output: cpu is E4M3FN (to 448), trainium2 is E4M3 (to 240) "
        "(default: cpu).",
    )
    parser.add_argument(
        "--expert-parallel",
        type=positive,
        metavar="P",
        help="Expert-parallel size to write shards for (default: the tensor-parallel size).",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=positive,
        default=1,
        metavar="T",
        help="Tensor-parallel size to write shards for (default: 1).",
    )
    gguf_output.add_arguments(parser)
    add_type_arguments(parser)
    _add_run_arguments(parser)


def add_subset_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the revision, the output, and the part of the checkpoint that is kept."""
    parser.add_argument(
        "--revision",
        default="main",
        help="Branch, tag or commit of the repository (default: main).",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FOLDER",
        help=f"Folder that the prepared weights are written to (default: {OUTPUT}).",
    )
    parser.add_argument(
        "--expert-subset",
        nargs="+",
        metavar="ID",
        help="Ids and ranges of the experts to keep, such as 0 1 4-7 (default: all).",
    )
    parser.add_argument(
        "--num-layers",
        type=positive,
        help="Number of layers to keep, from the first on; fewer than all have no MTP heads "
        "(default: all).",
    )
    parser.add_argument(
        "--no-mtp",
        dest="mtp",
        action="store_false",
        help="Leave out the MTP heads, which draft tokens (default: keep them).",
    )
    parser.add_argument(
        "--dtype",
        choices=STORED,
        default=HUB_FORMAT,
        help=f"Dtype of the prepared weights; {HUB_FORMAT} keeps them as stored "
        f"(default: {HUB_FORMAT}).",
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare whether to run, to continue, or to compare what an earlier run has finished."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Print what would be read and written, and write nothing.",
    )
    parser.add_argument("--resume", action="store_true", help="Continue an interrupted run.")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="Compare the finished folder --output with its checksums and, if it is at hand, with "
        "its source (by default the one that it names), and write nothing.",
    )


def run(
    checkpoint: Path | None,
    model: str | None,
    revision: str,
    output: Path,
    expert_subset: list[str] | None,
    num_layers: int | None,
    mtp: bool,
    dtype: str,
    target: str,
    expert_parallel: int | None,
    tensor_parallel: int,
    format: str,  # noqa: A002  the option's name
    split_size: float | None,
    isq: str | None,
    topology: Path | None,
    dry_run: bool,
    resume: bool,
    verify: bool,
) -> Result:
    """Plan the job, print its sizes, run it, and return sizes and times."""
    request = IsqRequest.of(isq, topology)
    if format == "gguf":
        experts = from_ranges(expert_subset) if expert_subset else None
        others = (model, target, expert_parallel, tensor_parallel, resume, verify)
        parts: Any = (dtype, request, experts, num_layers, split_size, dry_run)
        return gguf_output.run(checkpoint, output, *parts, *others)
    source = _source(checkpoint, model, revision)
    if verify:
        return verification.verify(output, source)
    if source is None:
        raise CommandError("one of --checkpoint and --model is required")
    kept = (expert_subset, num_layers)
    split: dict[str, Any] = {"expert_parallel": expert_parallel or tensor_parallel}
    split |= {"tensor_parallel": tensor_parallel, "mtp": mtp}
    encoding = Encoding(dtype, target, request)
    job = plan(source, _config(source), output, encoding, *kept, **split)
    return finish(job, dry_run=dry_run, resume=resume)


def finish(job: ConversionJob, *, dry_run: bool, resume: bool) -> Result:
    """Print the sizes of a job, run it unless it is a dry run, and return its numbers."""
    numbers = sizes(job)
    if job.encoding.request.text:
        warn_of_topology(job.encoding, job.config)
        print_table(job.encoding.table)
        numbers |= isq_numbers(job.encoding.table)
    _print_sizes(job)
    return Result(numbers if dry_run else numbers | make(job, resume=resume))


def _source(checkpoint: Path | None, model: str | None, revision: str) -> Source | None:
    if checkpoint is not None:
        return FolderSource(checkpoint)
    return HubSource(model, revision) if model is not None else None


def _config(source: Source) -> MiMoConfig:
    path = source.config if isinstance(source, HubSource) else source.name
    return MiMoConfig.from_pretrained(path)


def plan(
    source: Source,
    config: MiMoConfig,
    output: Path,
    encoding: Encoding,
    expert_subset: list[str] | None,
    num_layers: int | None,
    *,
    mtp: bool,
    **split: int,
) -> ConversionJob:
    """Return the conversion job; nothing is written yet."""
    all_ids = range(config.n_routed_experts)
    experts = tuple(
        check_experts(from_ranges(expert_subset) if expert_subset else all_ids, all_ids)
    )
    return plan_conversion_job(
        source, config, output, encoding, experts, num_layers=num_layers, mtp=mtp, **split
    )


def from_ranges(ranges: list[str]) -> list[int]:
    """Return the ids in ranges such as "0" and "4-7"; ValueError names a malformed one."""
    ids: list[int] = []
    for text in ranges:
        first, _, last = text.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"expert_subset: {text!r} is neither an id nor a range such as 0-7")
        ids.extend(range(int(first), int(last or first) + 1))
    return ids


def make(job: ConversionJob, *, resume: bool = True) -> dict[str, Any]:
    """Run what is left of the job, with a progress bar, print the result and return its numbers."""
    out, start = console(), time.perf_counter()
    if job.is_complete():
        out.print(f"{job.store.folder} is complete already")
        return {"was_complete": True, "rounded_values": 0, "seconds": 0.0}
    if resume and job.store.is_former:
        out.print(f"{job.store.folder}: an interrupted run without checksums, which begins anew")
    workers = IN_FLIGHT if isinstance(job.source, HubSource) else WORKERS
    with progress_of_bytes(f"{job.source.name}", total=job.bytes_to_read) as advance:
        job.run(workers=workers, advance=advance, resume=resume)
    out.print(f"{job.store.folder}: {amount(job.store.nbytes)}, complete")
    if job.encoding.target == "trainium2":
        out.print(
            f"{job.encoding.rounded:,} FP8 values rounded when halved by this run, each by at most "
            "2^-10 of its scale"
        )
    seconds, rounded = time.perf_counter() - start, job.encoding.rounded
    return {"was_complete": False, "rounded_values": rounded, "seconds": seconds}


def print_left_out(job: ConversionJob) -> None:
    """Print a line that names what the job leaves out on purpose, if there is anything."""
    if left_out := job.names.describe_left_out():
        console().print(left_out, soft_wrap=True)


def sizes(job: ConversionJob) -> dict[str, Any]:
    """Return what a job reads and writes, as numbers of `--json`."""
    return {
        "source": job.source.name,
        "revision": job.source.revision,
        "folder": job.store.folder,
        "tensors": len(job.plan.outputs),
        "experts": list(job.prepared.experts),
        "layers": job.config.num_hidden_layers,
        "mtp_heads": job.prepared.mtp_heads,
        "shards": len(job.store.folders),
        "read_bytes": job.bytes_to_read,
        "bytes": job.store.nbytes,
        "left_out": dict(job.names.left_out),
    }


def _print_sizes(job: ConversionJob) -> None:
    """Print the sizes of the job, and whether they fit into this machine."""
    folder, size = job.store.folder.absolute(), job.store.nbytes
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = (
        ("tensors", f"{len(job.plan.outputs):,}", ""),
        ("experts", f"{len(job.prepared.experts)} of {job.config.n_routed_experts}", ""),
        ("layers", f"{job.config.num_hidden_layers}", ""),
        ("MTP heads", f"{job.prepared.mtp_heads}", ""),
        ("shards", f"{len(job.store.folders)}", ""),
        ("bytes to read", amount(job.bytes_to_read), ""),
        ("bytes on disk", amount(size), _fits(size, free)),
        ("memory to hold all", amount(size), _fits(size, memory)),
    )
    title = f"{job.source.name} {job.source.revision}".strip()
    console().print(table(title, ("what",), ("amount", "this machine"), rows))
    print_left_out(job)


def _fits(size: int, available: int) -> str:
    return f"{'fits' if size <= available else 'DOES NOT FIT'} in {amount(available)}"
