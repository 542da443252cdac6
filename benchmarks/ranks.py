"""Strong scaling of prefill and decoding on 1, 2, 4 and 8 processes of one machine.

The model has MiMo-V2-Flash's kinds of layers, a quarter as wide; experts and batch are split over
the processes. On one machine more processes bring no more cores: the benchmark measures the cost of
parallelism, as processor time of all processes together, and as the share of time in collectives.
Every process has one thread and one core. Each round runs all process counts, so that disturbances
of the machine affect all of them.

    python -m benchmarks.ranks            # about three minutes; needs 4 GB of memory
    python -m benchmarks.ranks --quick    # smoke test: narrow layers, one round, no results
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

from .machine import describe_machine
from .rank import DISPATCHERS, Results, describe_workload

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "ranks.json"
SIZES = (1, 2, 4, 8)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="Run a smoke test that writes no results."
    )
    parser.add_argument(
        "--rounds", type=int, help="Number of rounds (default: 3, or 1 with --quick)."
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]  # where it is not near 0, only processor time is reliable
    rounds = run(options.rounds or (1 if options.quick else 3), quick=options.quick)
    figures = medians(rounds)
    show(figures)
    if not options.quick:
        machine = describe_machine() | {"load_before": load}
        content = {
            "machine": machine,
            "work": describe_workload(),
            "medians": figures,
            "rounds": rounds,
        }
        RESULT.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def run(rounds: int, *, quick: bool) -> list[dict[int, Results]]:
    """Return the results by number of processes, round by round."""
    results = []
    with progress("processes", total=rounds * len(SIZES), unit="sizes") as advance:
        for turn in range(rounds):
            this_round = {}
            for size in SIZES[:: -1 if turn % 2 else 1]:
                this_round[size] = _run_processes(size, quick=quick)
                advance(1)
            results.append(this_round)
    logits = [of_size.pop("logits") for this_round in results for of_size in this_round.values()]
    if np.ptp(np.array([one["sum"] for one in logits])) > 1e-3:
        raise RuntimeError(f"ranks do not compute the same: {logits}")
    return results


def _run_processes(size: int, *, quick: bool) -> Results:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = ["--master-addr=127.0.0.1", f"--master-port={probe.getsockname()[1]}"]
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={size}", *address]
    completed = subprocess.run(
        [sys.executable, *torchrun, "-m", "benchmarks.rank", *["--quick"] * quick],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if completed.returncode:
        raise RuntimeError(
            f"{size} processes: status {completed.returncode}\n{completed.stderr[-3000:]}"
        )
    return json.loads(completed.stdout.splitlines()[-1])


def medians(rounds: list[dict[int, Results]]) -> dict[str, dict[int, dict[str, float]]]:
    """Return the median of every figure over the rounds, with ratios and shares."""
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for phase in DISPATCHERS:
        of_phase = {size: [one[size][phase] for one in rounds] for size in SIZES}
        figures[phase] = {
            size: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
            for size, runs in of_phase.items()
        }
        for size, of_size in figures[phase].items():
            pairs = zip(of_phase[size], of_phase[1], strict=True)
            of_size["processor_ratio"] = statistics.median(
                one["processor_seconds"] / alone["processor_seconds"] for one, alone in pairs
            )
            for part in ("exchange", "beside"):
                of_size[f"{part}_share"] = of_size[f"{part}_seconds"] / of_size["seconds"]
    return figures


def show(figures: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print a table for each phase."""
    columns = (
        "seconds",
        "processor",
        "vs. one",
        "dispatch",
        "other collectives",
        "sent / lower bound",
    )
    for phase, of_sizes in figures.items():
        printed = table(f"{phase}, by {DISPATCHERS[phase]}", ("processes",), columns)
        for size, one in of_sizes.items():
            lower_bound = one["least_bytes"]
            printed.add_row(
                str(size),
                f"{one['seconds']:.2f} s",
                f"{one['processor_seconds']:.2f} s",
                f"{one['processor_ratio']:.2f}",
                f"{one['exchange_share']:.0%}",
                f"{one['beside_share']:.0%}",
                f"{one['sent_bytes'] / lower_bound:.3f}" if lower_bound else "none",
            )
        console().print(printed)


if __name__ == "__main__":
    sys.exit(main())
