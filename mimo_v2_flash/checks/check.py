"""A self-check of a kernel: its outputs on random inputs beside those of its float64 oracle."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Check", "Pairs", "Random", "beside_oracle", "normal"]

Pairs = list[tuple[Any, Any]]
Random = np.random.Generator


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


def beside_oracle(module: str, name: str, *tensors: Any, **static: Any) -> Pairs:
    """Return the pairs (actual, expected) of a kernel's outputs and those of its oracle."""
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
