"""What a check is: a kernel on random inputs, beside its float64 oracle."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Check", "Pairs", "Random", "beside_oracle", "normal"]

Pairs = list[tuple[Any, Any]]
Random = np.random.Generator


class Check(NamedTuple):
    """A kernel, what is checked of it, the error allowed, and the pairs (found, expected)."""

    kernel: str
    what: str
    allowed: float
    run: Callable[[Random], Pairs]


def beside_oracle(module: str, name: str, *tensors: Any, **static: Any) -> Pairs:
    """Return what the kernel answers beside what its oracle answers."""
    found, expected = (
        getattr(importlib.import_module(f"mimo_v2_flash.{floor}.{module}"), name)(
            *tensors, **static
        )
        for floor in ("kernels", "reference")
    )
    if isinstance(found, tuple):
        return list(zip(found, expected, strict=True))
    return [(found, expected)]


def normal(random: Random, *shape: int) -> np.ndarray:
    """Return normal float32 numbers."""
    return random.standard_normal(shape).astype(np.float32)
