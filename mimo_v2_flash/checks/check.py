"""A self-check of a kernel: its outputs on random inputs beside those of its float64 oracle."""

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Check", "Outcome", "Pairs", "Random", "beside_oracle", "normal"]

Pairs = list[tuple[Any, Any]]
Random = np.random.Generator


class Outcome(NamedTuple):
    """The outcome of a check; errors are relative to max |expected|."""

    kernel: str
    check: str
    error: float
    allowed: float
    seconds: float
    passed: bool


class Check(NamedTuple):
    """A check of one kernel.

    Attributes
    ----------
    kernel
        Name of the kernel.
    what
        Label of the check in the table.
    allowed
        Largest error that passes, relative to the largest absolute expected value.
    run
        Function from a random generator to the pairs (actual, expected).
    """

    kernel: str
    what: str
    allowed: float
    run: Callable[[Random], Pairs]

    def measure(self, seed: int) -> Outcome:
        """Return the outcome on the random inputs of `seed`: the largest error of the pairs."""
        start = time.perf_counter()
        pairs = self.run(np.random.default_rng(seed))
        error = max(_error(np.asarray(a, np.float64), np.asarray(e, np.float64)) for a, e in pairs)
        seconds, passed = time.perf_counter() - start, error <= self.allowed
        return Outcome(self.kernel, self.what, error, self.allowed, seconds, passed)


def beside_oracle(module: str, name: str, *tensors: Any, **static: Any) -> Pairs:
    """Return the pairs (actual, expected) of a kernel's outputs and those of its oracle.

    Parameters
    ----------
    module : str
        Module of the kernel, within `kernels` and `reference`.
    name : str
        Name of the kernel, and of its oracle.
    *tensors
        Its tensors.
    **static
        Its other arguments.
    """
    actual, expected = (
        getattr(importlib.import_module(f"mimo_v2_flash.{package}.{module}"), name)(
            *tensors, **static
        )
        for package in ("kernels", "reference")
    )
    if isinstance(actual, tuple):
        return list(zip(actual, expected, strict=True))
    return [(actual, expected)]


def normal(random: Random, *shape: int) -> np.ndarray:
    """Return float32 numbers from the standard normal distribution."""
    return random.standard_normal(shape).astype(np.float32)


def _error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return max |actual - expected| / max |expected|; infinity if shapes differ or at NaN."""
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    return float(np.max(np.abs(actual - expected), initial=0.0)) / scale
