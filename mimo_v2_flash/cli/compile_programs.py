"""Compile every program of a deployment for Trainium2, without weights and without a device.

nkipy traces the programs, and neuronx-cc compiles them, several at a time, into a compile cache
that `mimo generate` reads. Without neuronx-cc only the HLO modules and a manifest are written.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from mimo_v2_flash.costs.device_memory import check_memory
from mimo_v2_flash.costs.step_programs import step_programs
from mimo_v2_flash.execution.program_builder import JOBS, ProgramBuilder
from mimo_v2_flash.execution.registry import INSTALL

from .console import console, progress, table
from .cost import add_deployment_arguments, parse_deployment
from .option_types import positive
from .result import Result
from .runtime_options import add_compiler_arguments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "--backend",
        choices=("neuron",),
        default="neuron",
        help="Backend that the programs are compiled for (default: neuron).",
    )
    add_deployment_arguments(parser)
    add_compiler_arguments(parser)
    parser.add_argument(
        "--jobs",
        type=positive,
        default=JOBS,
        help=f"Number of compilers that run at the same time (default: {JOBS}).",
    )


def run(*, backend: str, compile_cache: Path, lnc: int, jobs: int, **options: Any) -> Result:
    """Trace, compile, print the programs and their folders, and return them."""
    start = time.perf_counter()
    deployment = parse_deployment(**options)
    check_memory(deployment.config, deployment.plan, deployment.workload, lnc)
    programs = step_programs(deployment).programs
    builder = ProgramBuilder(compile_cache, lnc=lnc)
    modules = {name: program.traced.module for name, program in programs.items()}
    with progress("compiling", total=len(modules), unit="programs") as advance:
        folders = builder.compile_all(modules, jobs=jobs, advance=advance)
    numbers = {
        "backend": backend,
        "compile_cache": builder.folder,
        "compiler": builder.compiler and builder.compiler.version,
        "programs": {name: folder.name for name, folder in zip(modules, folders, strict=True)},
        "seconds": time.perf_counter() - start,
    }
    _report(numbers)
    return Result(numbers)


def _report(numbers: dict[str, Any]) -> None:
    out, title = console(), "{backend}: {compile_cache}".format(**numbers)
    out.print(table(title, ("program", "folder"), rows=numbers["programs"].items()))
    if numbers["compiler"] is None:
        out.print(f"Not compiled: neuronx-cc is not installed; {INSTALL}")
    else:
        out.print(f"Compiled by neuronx-cc {numbers['compiler']}.")
