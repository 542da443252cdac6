"""Check every kernel against its float64 oracle, on this machine's CPU.

The mode prints a table of kernels, checks, largest errors and times; the exit status is 1 if any
check fails.
"""

import argparse

from mimo_v2_flash.checks.kernel_checks import CHECKS

from .console import console, table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of the random inputs (default: 0)."
    )


def run(seed: int) -> int:
    """Run all checks, print their table, and return the exit status."""
    results = table(
        "Kernels against their float64 oracles",
        ("kernel", "check"),
        ("largest error", "allowed", "time", ""),
    )
    failed = 0
    for check in CHECKS:
        outcome = check.measure(seed)
        passed = outcome.error <= check.allowed
        failed += not passed
        results.add_row(
            check.kernel,
            check.what,
            f"{outcome.error:.1e}",
            f"{check.allowed:.0e}",
            f"{outcome.seconds * 1e3:.0f} ms",
            "ok" if passed else "FAILED",
        )
    out = console()
    out.print(results)
    out.print(
        f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed; errors are relative to max "
        "|expected|."
    )
    return 1 if failed else 0
