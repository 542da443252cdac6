"""Benchmark a step of this project beside another checkout of it, case by case in turn.

Both have a process of their own, which runs one case at a time; the medians are over rounds. Three
layers of MiMo-V2-Flash at true widths with 32 experts, and the trained example, mimo-tiny.

    git worktree add ../before COMMIT
    python -m benchmarks.steps --before ../before      # about 10 minutes; 2 GB of disk
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from mimo_v2_flash.cli.console import console, progress, table

from .machine import describe_machine
from .made_weights import model_config, write_float8

ROOT = Path(__file__).parents[1]
__all__ = ["ask", "worker"]

RESULTS = Path(__file__).parent / "results" / "steps.json"
CASES = {
    "one token, batch 1": "decode wide 1 8",
    "one token, batch 8": "decode wide 8 4",
    "prompt of 512": "prompt wide 512",
    "mimo-tiny, one token, batch 1": "decode tiny 1 32",
}
MIXED = "mixed wide 512"
REPEATS = {"decode": 4, "prompt": 2, "mixed": 2}  # in each round


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="Checkout to compare with.")
    parser.add_argument("--rounds", type=int, default=9, help="Number of rounds (default: 9).")
    parser.add_argument("--quick", action="store_true", help="Narrow layers; no results.")
    options = parser.parse_args()
    results = measure(options.before, options.rounds, quick=options.quick)
    printed = table("Medians", ("case",), ("before, s", "after, s", "before / after"))
    for name, row in results["cases"].items():
        before, after = row["before_seconds"], row["after_seconds"]
        printed.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{row['ratio']:.3f}")
    console().print(printed)
    console().print(f"512 tokens beside 31 that decode, against alone: {results['mixed']:.3f}")
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def measure(before: Path, rounds: int, *, quick: bool) -> dict[str, Any]:
    """Return medians of seconds, and of their ratios in one round."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "wide"
        write_float8(wide, model_config(quick=quick))
        with worker(before, wide) as old, worker(ROOT, wide) as new:
            workers = {"before": old, "after": new}
            with progress("rounds", total=rounds, unit="rounds") as advance:
                for _ in range(rounds):
                    for case in [*CASES.values(), MIXED]:
                        _measure_case(case, workers, seconds)
                    advance(1)
    return {"machine": describe_machine(), "rounds": rounds, **_summary(seconds)}


def _measure_case(
    case: str,
    workers: dict[str, subprocess.Popen[str]],
    seconds: dict[tuple[str, str], list[float]],
) -> None:
    """Time a case in both processes in turn, and in the other order the next time."""
    names = ["after"] if case == MIXED else list(workers)
    for index in range(REPEATS[case.partition(" ")[0]]):
        for name in names[:: -1 if index % 2 else 1]:
            seconds.setdefault((case, name), []).append(ask(workers[name], case))


def _summary(seconds: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    cases = {}
    for name, case in CASES.items():
        before, after = seconds[case, "before"], seconds[case, "after"]
        cases[name] = {
            "before_seconds": median(before),
            "after_seconds": median(after),
            "ratio": median(a / b for a, b in zip(before, after, strict=True)),
        }
    alone = seconds[CASES["prompt of 512"], "after"]
    pairs = zip(seconds[MIXED, "after"], alone, strict=True)
    return {"cases": cases, "mixed": median(both / one for both, one in pairs)}


@contextmanager
def worker(checkout: Path, wide: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that times cases with the package of `checkout`."""
    command = [sys.executable, str(Path(__file__).with_name("step_worker.py")), str(wide)]
    process = subprocess.Popen(
        [*command, str(ROOT / "examples" / "mimo-tiny")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout.resolve())},
    )
    with process:
        yield process
        process.terminate()


def ask(process: subprocess.Popen[str], case: str) -> float:
    """Return the seconds that a case takes in a worker."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(case + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


if __name__ == "__main__":
    sys.exit(main())
