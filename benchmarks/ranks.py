"""Measure prefill and decoding on 1, 2, 4 and 8 processes, at fixed work.

A model of MiMo-V2-Flash's kinds of layers, a quarter as wide, its experts and the batch split over
the processes. On one machine more processes bring no more cores: what is measured is what sharing
costs, as processor time of all processes together, and as the share of time in exchanges. Every
process has one thread and one core, and they take turns, so that the machine's moods meet all.

    python -m benchmarks.ranks            # about three minutes; needs 4 GB of memory
    python -m benchmarks.ranks --quick    # narrow layers, one round: whether it runs, no figures
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from mimo_v2_flash.cli.console import console, progress, table

from .machine import described
from .rank import WAYS, Found, work

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "ranks.json"
SIZES = (1, 2, 4, 8)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only see whether it runs")
    parser.add_argument("--rounds", type=int, help="of which medians are taken (3, or 1 if quick)")
    options = parser.parse_args()
    busy = os.getloadavg()[0]  # of others: where it is not near 0, trust processor time alone
    rounds = run(options.rounds or (1 if options.quick else 3), quick=options.quick)
    figures = medians(rounds)
    show(figures)
    if not options.quick:
        machine = described() | {"load_before": busy}
        content = {"machine": machine, "work": work(), "medians": figures, "rounds": rounds}
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def run(rounds: int, *, quick: bool) -> list[dict[int, Found]]:
    """Return what was found on so many processes, round by round."""
    found = []
    with progress("processes", total=rounds * len(SIZES), unit="sizes") as done:
        for turn in range(rounds):
            this_round = {}
            for size in SIZES[:: -1 if turn % 2 else 1]:
                this_round[size] = _on_processes(size, quick=quick)
                done(1)
            found.append(this_round)
    logits = [of_size.pop("logits") for this_round in found for of_size in this_round.values()]
    if np.ptp(np.array([said["sum"] for said in logits])) > 1e-3:
        raise RuntimeError(f"ranks do not compute the same: {logits}")
    return found


def _on_processes(size: int, *, quick: bool) -> Found:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = ["--master-addr=127.0.0.1", f"--master-port={probe.getsockname()[1]}"]
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={size}", *address]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "benchmarks.rank", *["--quick"] * quick],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{size} processes: status {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: list[dict[int, Found]]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the median of every figure, and ratios and shares of it."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for phase in WAYS:
        of_phase = {size: [one[size][phase] for one in rounds] for size in SIZES}
        found[phase] = {
            size: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
            for size, runs in of_phase.items()
        }
        for size, figures in found[phase].items():
            pairs = zip(of_phase[size], of_phase[1], strict=True)
            figures["processor_ratio"] = statistics.median(
                one["processor_seconds"] / alone["processor_seconds"] for one, alone in pairs
            )
            for part in ("exchange", "beside"):
                figures[f"{part}_share"] = figures[f"{part}_seconds"] / figures["seconds"]
    return found


def show(figures: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print a table for each phase."""
    columns = ("seconds", "processor", "to one", "in exchanges", "beside", "sent / least")
    for phase, of_sizes in figures.items():
        made = table(f"{phase}, by {WAYS[phase]}", ("processes",), columns)
        for size, one in of_sizes.items():
            least = one["least_bytes"]
            made.add_row(
                str(size),
                f"{one['seconds']:.2f} s",
                f"{one['processor_seconds']:.2f} s",
                f"{one['processor_ratio']:.2f}",
                f"{one['exchange_share']:.0%}",
                f"{one['beside_share']:.0%}",
                f"{one['sent_bytes'] / least:.3f}" if least else "none",
            )
        console().print(made)


if __name__ == "__main__":
    sys.exit(main())
