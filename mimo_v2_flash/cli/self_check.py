"""Check every kernel against its float64 oracle, on this machine's CPU.

The command prints a table of kernels, checks, largest errors and times; the exit status is 1 if any
check fails.
"""

import argparse

from mimo_v2_flash.checks.kernel_checks import CHECKS
from mimo_v2_flash.cpu.thread_count import thread_count

from .console import console, table
from .option_types import natural
from .result import Result

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "--seed", type=natural, default=0, help="Seed of the random inputs (default: 0)."
    )


def run(seed: int) -> Result:
    """Run all checks, print their table, and return their outcomes."""
    outcomes = [check.measure(seed) for check in CHECKS]
    rows = (
        (
            outcome.kernel,
            outcome.check,
            f"{outcome.error:.1e}",
            f"{outcome.allowed:.0e}",
            f"{outcome.seconds * 1e3:.0f} ms",
            "ok" if outcome.passed else "FAILED",
        )
        for outcome in outcomes
    )
    columns = ("kernel", "check"), ("largest error", "allowed", "time", "")
    passed, total = sum(outcome.passed for outcome in outcomes), len(outcomes)
    out = console()
    out.print(table("Kernels against their float64 oracles", *columns, rows))
    out.print(f"{passed} of {total} checks passed; errors are relative to max |expected|.")
    out.print(f"The kernels had {thread_count()}.")
    numbers = {
        "seed": seed,
        "checks": total,
        "passed": passed,
        "threads": thread_count().number,
        "outcomes": [outcome._asdict() for outcome in outcomes],
    }
    return Result(numbers, 0 if passed == total else 1)
