"""Check every kernel against its float64 oracle, on this machine's CPU.

The mode prints a table of kernels, checks, largest errors and times; the exit status is 1 if any
check fails.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checks.kernel_checks import CHECKS

from .console import console, table

__all__ = ["add_arguments", "run"]


class Outcome(NamedTuple):
    """The result of a check: its error relative to max |expected|, and its seconds."""

    error: float
    seconds: float


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
        f"{len(CHECKS) - failed} of {len(CHECKS)} checks passed; errors are relative to max "
        "|expected|."
    )
    return 1 if failed else 0


def _outcome(check: Callable[[np.random.Generator], list[tuple[Any, Any]]], seed: int) -> Outcome:
    """Return the largest error of the pairs (actual, expected) that `check` returns."""
    start = time.perf_counter()
    pairs = check(np.random.default_rng(seed))
    error = max(_error(np.asarray(a, np.float64), np.asarray(e, np.float64)) for a, e in pairs)
    return Outcome(error, time.perf_counter() - start)


def _error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return max |actual - expected| / max |expected|; infinity if shapes differ or at NaN."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    return float(np.max(np.abs(actual - expected), initial=0.0)) / scale
