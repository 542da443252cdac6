"""Check every kernel against its float64 oracle, on this machine, without a Trainium.

Prints a table of kernel, check, largest error and time; the exit status is 1 if any check fails.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .console import console, table
from .kernel_checks import CHECKS

__all__ = ["add_arguments", "run"]


class Outcome(NamedTuple):
    """What one check found: the error as a share of the answer's range, and its seconds."""

    error: float
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default 0)")


def run(seed: int) -> int:
    """Run all checks, print their table, and return the exit status."""
    results = table(
        "Kernels against their float64 oracles",
        ("kernel", "check"),
        ("largest error", "allowed", "time", ""),
    )
    failed = 0
    for check in CHECKS:
        outcome = _outcome(check.run, seed)
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
        f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed; errors are shares of the range."
    )
    return 1 if failed else 0


def _outcome(check: Callable[[np.random.Generator], list[tuple[Any, Any]]], seed: int) -> Outcome:
    """Return the largest error of the pairs (found, expected) that `check` returns."""
    start = time.perf_counter()
    pairs = check(np.random.default_rng(seed))
    error = max(_error(np.asarray(f, np.float64), np.asarray(e, np.float64)) for f, e in pairs)
    return Outcome(error, time.perf_counter() - start)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    spread = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    return float(np.max(np.abs(found - expected), initial=0.0)) / spread
