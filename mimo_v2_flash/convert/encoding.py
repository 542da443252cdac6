"""The encoding of prepared weights: FP8, bfloat16 or float32, for a CPU or for Trainium2.

For Trainium2 values are halved (`quantization.fp8`); those that halving rounds are counted.
"""

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, WIDENED
from mimo_v2_flash.quantization.fp8 import ROUNDS, BlockScaled, check_values, halved

__all__ = ["STORED", "TARGETS", "Encoding"]

STORED = {"fp8": None, "bfloat16": "BF16", "float32": "F32"}
TARGETS = ("cpu", "trainium2")


@dataclass
class Encoding:
    """The dtype that weights are converted to, and the device that they are for.

    Parameters
    ----------
    dtype
        A key of `STORED`; "fp8" keeps the stored dtype of every weight.
    target
        One of `TARGETS`; it changes FP8 weights only.

    Attributes
    ----------
    rounded
        How many FP8 values halving has rounded so far.
    """

    dtype: str
    target: str
    rounded: int = 0
    _lock: Any = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        if self.dtype not in STORED or self.target not in TARGETS:
            raise ValueError(
                f"dtype {self.dtype!r} and target {self.target!r}, expected one of "
                f"{', '.join(STORED)} and of {', '.join(TARGETS)}"
            )

    def stored(self, dtype: str) -> str:
        """Return the safetensors dtype of a matrix that the source stores as `dtype`."""
        return STORED[self.dtype] or WIDENED.get(dtype, dtype)

    def scaled(self, name: str, weight: BlockScaled) -> list[np.ndarray]:
        """Return the arrays to write for an FP8 weight: codes and scales, or the values alone.

        Raises
        ------
        ValueError
            If a code is NaN, or a scale is bad or too large to be doubled; the message names the
            weight.
        """
        check_values(name, weight)
        if stored := STORED[self.dtype]:
            return [_dequantized(weight, DTYPES[stored])]
        if self.target == "cpu":
            return [weight.code, weight.scale]
        half = halved(name, weight)
        with self._lock:
            self.rounded += int(np.count_nonzero(ROUNDS[weight.code]))
        return [half.code, half.scale]


def _dequantized(weight: BlockScaled, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a weight's values in `dtype`; in float32 there is only one block row at a time."""
    values = np.empty(weight.shape, dtype)
    for start in range(0, len(values), weight.block_height):
        rows = slice(start, start + weight.block_height)
        values[rows] = weight.dequantize(rows)
    return values
