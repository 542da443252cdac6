"""Check this machine: what is installed, what it has, and what would not work, with its remedy.

Each line of the table is ok, or has the command that mends it. A note is about something optional.
The exit status is 0, but with --strict 1 if there is a problem. With --measure it reads the model's
files, to say how fast the disk is.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mimo_v2_flash.machine.diagnosis import PROBLEM, Diagnosis
from mimo_v2_flash.machine.disk_rate import ReadRate, measure_disk
from mimo_v2_flash.machine.host import diagnose_host
from mimo_v2_flash.machine.hub_access import diagnose_hub
from mimo_v2_flash.machine.model_files import diagnose_model_files
from mimo_v2_flash.machine.neuron import diagnose_neuron
from mimo_v2_flash.machine.packages import diagnose_packages

from .console import console
from .example_model import EXAMPLE
from .option_types import model_folder
from .result import Result

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        *("-m", "--model"),
        type=model_folder,
        default=EXAMPLE,
        metavar="FOLDER",
        help="Folder of a checkpoint, a GGUF file, or the name of an example: its disk and "
        f"tokenizer are checked (default: {EXAMPLE}).",
    )
    parser.add_argument(
        "--measure", action="store_true", help="Measure how fast the model's files are read."
    )
    parser.add_argument(
        "--strict", action="store_true", help="End with status 1 if there is a problem."
    )


def run(model: Path, measure: bool, strict: bool) -> Result:
    """Check, print a line for each diagnosis, and return them; status 1 if a strict one fails."""
    diagnoses, out = [], console()
    width = len("extra distributed")
    for diagnosis in _diagnoses(model, measure=measure):
        diagnoses.append(diagnosis)
        out.print(f"{diagnosis.level:<8}{diagnosis.topic:<{width}}  {diagnosis.text}")
        if diagnosis.remedy:
            out.print(f"{'':<{8 + width}}  -> {diagnosis.remedy}")
    problems = sum(diagnosis.level == PROBLEM for diagnosis in diagnoses)
    out.print("All is well." if not problems else f"{problems} of {len(diagnoses)} are problems.")
    numbers = {"problems": problems, "checks": [each._asdict() for each in diagnoses]}
    return Result(numbers, int(strict and problems > 0))


def _diagnoses(model: Path, *, measure: bool) -> Iterator[Diagnosis]:
    """Yield the diagnoses in the order of the table."""
    yield from diagnose_packages()
    yield from diagnose_host()
    yield from diagnose_model_files(model, measure_disk if measure else _not_measured)
    yield from diagnose_neuron()
    yield diagnose_hub()


def _not_measured(_: list[Path]) -> ReadRate | None:
    """Measure nothing, which takes no time."""
    return None
