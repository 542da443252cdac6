"""Prepare weights: choose experts and layers of a checkpoint, and store them for this project.

A checkpoint on disk, or ranges of one on the Hugging Face hub. What an interruption leaves is
continued with --resume.
"""

import argparse
import os
import shutil
from pathlib import Path

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.weights.convert import ConversionJob, plan_conversion_job
from mimo_v2_flash.weights.encoding import STORED, TARGETS, Encoding
from mimo_v2_flash.weights.hub import IN_FLIGHT, HubSource
from mimo_v2_flash.weights.source import FolderSource, Source
from mimo_v2_flash.weights.subset import check_experts, from_ranges

from .console import amount, console, progress_of_bytes, table
from .truncate import truncate_layers

__all__ = ["MODEL", "OUTPUT", "add_arguments", "make", "plan", "run"]

MODEL = "XiaomiMiMo/MiMo-V2-Flash"
OUTPUT = Path("tmp_mimo_weights")
WORKERS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a folder of safetensors files")
    source.add_argument("--model", help=f"a repository of the hub, such as {MODEL}")
    parser.add_argument("--revision", default="main", help="of the repository (main)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"a folder ({OUTPUT})")
    parser.add_argument(
        "--expert-subset", nargs="+", metavar="ID", help="ids and ranges to keep, such as 0 1 4-7"
    )
    parser.add_argument("--num-layers", type=int, help="keep the first layers only")
    parser.add_argument("--dtype", choices=STORED, default="fp8", help="fp8 is as stored (fp8)")
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="whose FP8 (cpu)")
    parser.add_argument(
        "--expert-parallel", type=int, metavar="P", help="a shard for each of P ranks' experts (T)"
    )
    parser.add_argument(
        "--tensor-parallel", type=int, default=1, metavar="T", help="and of T ranks' heads (1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted")


def run(
    checkpoint: Path | None,
    model: str | None,
    revision: str,
    output: Path,
    expert_subset: list[str] | None,
    num_layers: int | None,
    dtype: str,
    target: str,
    expert_parallel: int | None,
    tensor_parallel: int,
    dry_run: bool,
    resume: bool,
) -> int:
    """Plan the job, say what it takes, do it, and return the exit status."""
    source: Source
    if checkpoint is not None:
        source, config_file = FolderSource(checkpoint), checkpoint
    else:
        source = HubSource(model or MODEL, revision)
        config_file = source.config
    config = MiMoConfig.from_pretrained(config_file)
    experts_over = tensor_parallel if expert_parallel is None else expert_parallel
    split = {"expert_parallel": experts_over, "tensor_parallel": tensor_parallel}
    encoding = Encoding(dtype, target)
    job = plan(source, config, output, encoding, expert_subset, num_layers, **split)
    _say(job)
    if dry_run:
        return 0
    if job.store.is_interrupted and not resume:
        raise ValueError(f"{output}: an interrupted run is there; --resume continues it")
    make(job)
    return 0


def plan(
    source: Source,
    config: MiMoConfig,
    output: Path,
    encoding: Encoding,
    expert_subset: list[str] | None,
    num_layers: int | None,
    **split: int,
) -> ConversionJob:
    """Return the job; nothing is written yet."""
    if num_layers is not None:
        config = truncate_layers(config, num_layers)
    there = range(config.n_routed_experts)
    asked = from_ranges(expert_subset) if expert_subset else there
    experts = tuple(check_experts(asked, there))
    return plan_conversion_job(source, config, output, encoding, experts, **split)


def make(job: ConversionJob) -> None:
    """Do what is left of the job, with a progress bar, and say what became of it."""
    out = console()
    if job.is_complete():
        out.print(f"{job.store.folder} is complete already")
        return
    workers = IN_FLIGHT if isinstance(job.source, HubSource) else WORKERS
    with progress_of_bytes(f"{job.source.name}", total=job.bytes_to_read) as advance:
        job.run(workers=workers, advance=advance)
    out.print(f"{job.store.folder}: {amount(job.store.nbytes)}, complete")
    if job.encoding.target == "trainium2":
        rounded = f"{job.encoding.rounded:,} FP8 values rounded when halved"
        out.print(f"{rounded} by this run, each by at most 2^-10 of its scale")


def _say(job: ConversionJob) -> None:
    """Print what the job takes, and whether it fits here."""
    wanted, size = job.store.folder.absolute(), job.store.nbytes
    folder = next(path for path in (wanted, *wanted.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = table(f"{job.source.name} {job.source.revision}".strip(), ("what",), ("amount", "here"))
    said.add_row("tensors", f"{len(job.plan.outputs):,}", "")
    said.add_row("experts", f"{len(job.prepared.experts)} of {job.config.n_routed_experts}", "")
    said.add_row("layers", f"{job.config.num_hidden_layers}", "")
    said.add_row("shards", f"{len(job.store.folders)}", "")
    said.add_row("bytes to read", amount(job.bytes_to_read), "")
    said.add_row("bytes on disk", amount(size), _fits(size, free))
    said.add_row("memory to hold all", amount(size), _fits(size, memory))
    console().print(said)


def _fits(size: int, there: int) -> str:
    return f"{'fits' if size <= there else 'DOES NOT FIT'} in {amount(there)}"
