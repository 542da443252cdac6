"""Benchmark this project against transformers on a CPU, with the same weights, in one run.

The model has MiMo-V2-Flash's layers 0, 1 and 5 at their true widths with 32 experts. Every
implementation has a process of its own. The processes take turns, so that one model is loaded at a
time and disturbances of the machine affect all of them. Results are medians over rounds of the
ratios. The limits of the machine are measured in every round.

    python -m benchmarks.cpu            # about half an hour; needs 16 GB of memory, 7 GB of disk
    python -m benchmarks.cpu --quick    # smoke test: narrow layers, few tokens, no results
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.cli.console import console, progress, table

from .findings import IMPLEMENTATIONS, Round, Row, findings, medians
from .machine import describe_machine
from .made_weights import model_config, write_both
from .measures import FULL, QUICK
from .process import ALONE

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="Run a smoke test; without --results, it writes none."
    )
    parser.add_argument(
        "--repeats", type=int, help="Number of rounds (default: 3, or 1 with --quick)."
    )
    parser.add_argument(
        "--folder", type=Path, help="Folder of the weights, 7 GB (default: a temporary one)."
    )
    parser.add_argument(
        "--results", type=Path, help="Folder of the results (default: benchmarks/results)."
    )
    options = parser.parse_args()
    rounds = run(options.quick, options.repeats or (1 if options.quick else 3), options.folder)
    report(rounds, quick=options.quick, results=options.results)
    return 0


def run(quick: bool, repeats: int, folder: Path | None) -> list[Round]:
    """Return the results of every process, round by round."""
    names = [*ALONE, *IMPLEMENTATIONS]
    with tempfile.TemporaryDirectory(dir=folder) as weights:
        with progress("weights", total=None):
            write_both(Path(weights), model_config(quick=quick))
        rounds: list[Round] = []
        with progress("processes", total=repeats * len(names), unit="processes") as advance:
            for index in range(repeats):
                results = {}
                for name in names[:: -1 if index % 2 else 1]:
                    results[name] = _run_process(name, Path(weights), quick=quick)
                    advance(1)
                rounds.append(results | {"logits": _differences(Path(weights))})
    return rounds


def _run_process(name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    arguments = ["--name", name, "--folder", str(folder), "--started", repr(time.time())]
    completed = subprocess.run(
        [sys.executable, "-m", "benchmarks.process", *arguments, *["--quick"] * quick],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if completed.returncode:
        raise RuntimeError(
            f"{name}: exit status {completed.returncode}\n{completed.stderr[-2000:]}"
        )
    return json.loads(completed.stdout.splitlines()[-1])


def _differences(folder: Path) -> dict[str, float]:
    """Return the largest error of logits against transformers float32, relative to their range."""
    ours, bfloat16, exact = (np.load(folder / f"{name}.npy") for name in IMPLEMENTATIONS)
    span = float(np.ptp(exact))
    return {
        "ours": float(np.max(np.abs(ours - exact))) / span,
        "bfloat16": float(np.max(np.abs(bfloat16 - exact))) / span,
    }


def report(rounds: list[Round], *, quick: bool, results: Path | None) -> None:
    """Print the tables; write them, all results and a plot, unless this is a smoke test."""
    workload, config = (QUICK if quick else FULL), model_config(quick=quick)
    rows, units = findings(rounds, workload, config), medians(rounds, workload)
    show(rows, units)
    if quick and results is None:
        return
    folder = results or RESULTS
    folder.mkdir(exist_ok=True, parents=True)
    content = {
        "machine": describe_machine(),
        "plan": workload._asdict(),
        "config": asdict(config),
        "findings": [
            row._asdict() | {"median": row.median, "is_reached": row.is_reached} for row in rows
        ],
        "medians": {
            what: dict(zip(IMPLEMENTATIONS, values, strict=True)) for what, values in units
        },
        "rounds": rounds,
    }
    (folder / "cpu.json").write_text(json.dumps(content, indent=1) + "\n")
    from .plots import draw  # noqa: PLC0415

    machine = f"{content['machine']['cpu']}, {content['machine']['cores']} cores"
    draw(rows, machine, folder / "cpu.svg")


def show(rows: list[Row], units: list[tuple[str, list[float]]]) -> None:
    """Print the ratios, then the results of each implementation."""
    printed = table("Figures of this run", ("what", "bar"), ("median (rounds)", "verdict"))
    for row in rows:
        printed.add_row(row.what, row.bar_text, row.reached, row.verdict)
    console().print(printed)
    printed = table("Medians", ("what",), IMPLEMENTATIONS)
    for what, values in units:
        printed.add_row(what, *(f"{value:.2f}" for value in values))
    console().print(printed)


if __name__ == "__main__":
    sys.exit(main())
