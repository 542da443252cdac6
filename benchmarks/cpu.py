"""Measure this project beside transformers on a CPU, on the same weights, in one run.

MiMo-V2-Flash's layers 0, 1 and 5 at their true widths with 32 experts. Every contender has a
process of its own, and they take turns, so that one is loaded at a time and the machine's moods
meet all of them. What is compared are medians of the rounds' ratios. The machine's own limits are
measured in every round.

    python -m benchmarks.cpu            # about half an hour; needs 16 GB of memory, 7 GB of disk
    python -m benchmarks.cpu --quick    # narrow layers, few tokens: whether it runs, no figures
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

from .findings import CONTENDERS, Round, Row, findings, medians
from .machine import described
from .made_weights import model_config, write_both
from .measures import QUICK, UNSHARDED
from .process import ALONE

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see whether it runs")
    parser.add_argument("--repeats", type=int, help="rounds (3, or 1 if quick)")
    parser.add_argument("--folder", type=Path, help="where there is room for the weights, 7 GB")
    parser.add_argument("--results", type=Path, help="where to write (benchmarks/results)")
    options = parser.parse_args()
    rounds = run(options.quick, options.repeats or (1 if options.quick else 3), options.folder)
    report(rounds, quick=options.quick, results=options.results)
    return 0


def run(quick: bool, repeats: int, folder: Path | None) -> list[Round]:
    """Return what every process found, round by round."""
    turns = [*ALONE, *CONTENDERS]
    with tempfile.TemporaryDirectory(dir=folder) as made:
        with progress("weights", total=None):
            write_both(Path(made), model_config(quick=quick))
        rounds: list[Round] = []
        with progress("processes", total=repeats * len(turns), unit="processes") as done:
            for turn in range(repeats):
                found = {}
                for name in turns[:: -1 if turn % 2 else 1]:
                    found[name] = _in_a_process(name, Path(made), quick=quick)
                    done(1)
                rounds.append(found | {"logits": _differences(Path(made))})
    return rounds


def _in_a_process(name: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    words = ["--contender", name, "--folder", str(folder), "--started", repr(time.time())]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.process", *words, *["--quick"] * quick],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{name}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _differences(folder: Path) -> dict[str, float]:
    """Return how far logits are from those of float32, in shares of their range."""
    ours, bfloat16, exact = (np.load(folder / f"{name}.npy") for name in CONTENDERS)
    span = float(np.ptp(exact))
    return {
        "ours": float(np.max(np.abs(ours - exact))) / span,
        "bfloat16": float(np.max(np.abs(bfloat16 - exact))) / span,
    }


def report(rounds: list[Round], *, quick: bool, results: Path | None) -> None:
    """Print the tables; write them with all that was found, and a plot, unless it was quick."""
    plan, config = (QUICK if quick else UNSHARDED), model_config(quick=quick)
    rows, plain = findings(rounds, plan, config), medians(rounds, plan)
    show(rows, plain)
    if quick and results is None:
        return
    folder = results or RESULTS
    folder.mkdir(exist_ok=True, parents=True)
    content = {
        "machine": described(),
        "plan": plan._asdict(),
        "config": asdict(config),
        "findings": [
            row._asdict() | {"median": row.median, "is_reached": row.is_reached} for row in rows
        ],
        "medians": {what: dict(zip(CONTENDERS, found, strict=True)) for what, found in plain},
        "rounds": rounds,
    }
    (folder / "cpu.json").write_text(json.dumps(content, indent=1) + "\n")
    from .plots import draw  # noqa: PLC0415

    named = f"{content['machine']['cpu']}, {content['machine']['cores']} cores"
    draw(rows, named, folder / "cpu.svg")


def show(rows: list[Row], plain: list[tuple[str, list[float]]]) -> None:
    """Print the figures, then what each contender reached."""
    made = table("Figures of this run", ("what", "bar"), ("median (rounds)", "verdict"))
    for row in rows:
        made.add_row(row.what, row.bar_said, row.reached, row.verdict)
    console().print(made)
    made = table("Medians", ("what",), CONTENDERS)
    for what, found in plain:
        made.add_row(what, *(f"{value:.2f}" for value in found))
    console().print(made)


if __name__ == "__main__":
    sys.exit(main())
