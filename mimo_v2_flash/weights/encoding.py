"""The encoding of prepared weights: FP8, bfloat16 or float32, for a CPU or for Trainium2.

Trainium2's FP8 ends at 240 where the checkpoint's ends at 448, so values are halved and scales
doubled. Doubling is exact. Halving is exact but for 16 of 254 finite codes, the odd ones of the
smallest numbers, which round to even by at most 2^-10 of the doubled scale and are counted.
"""

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.quantization.fp8 import E4M3_VALUES, BlockScaled, dequantize_block_row

from .safetensors_file import DTYPES

__all__ = ["STORED", "TARGETS", "Encoding"]

STORED = {"fp8": None, "bfloat16": "BF16", "float32": "F32"}
TARGETS = ("cpu", "trainium2")

HALF = (E4M3_VALUES / 2).astype(ml_dtypes.float8_e4m3fn)
HALVED_CODE = HALF.view(np.uint8)
ROUNDS = HALF.astype(np.float32) * 2 != E4M3_VALUES
LARGEST_SCALE = np.finfo(np.float32).max / 2
NOT_A_NUMBER = np.isnan(E4M3_VALUES)


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
        return STORED[self.dtype] or dtype

    def scaled(self, name: str, weight: BlockScaled) -> list[np.ndarray]:
        """Return the arrays to write for an FP8 weight: codes and scales, or the values alone.

        Raises
        ------
        ValueError
            If a code is NaN, or a scale is no positive number or too large to be doubled; the
            message names the weight.
        """
        scale_YX = weight.scale
        if NOT_A_NUMBER[weight.code].any():
            raise ValueError(f"{name}: holds NaN")
        if not (np.isfinite(scale_YX).all() and (scale_YX > 0).all()):
            raise ValueError(f"{name}: a scale is NaN, infinite, zero or negative")
        if stored := STORED[self.dtype]:
            return [_dequantized(weight, DTYPES[stored])]
        if self.target == "cpu":
            return [weight.code, scale_YX]
        if scale_YX.max() > LARGEST_SCALE:
            raise ValueError(f"{name}: a scale of {scale_YX.max()} is too large to be doubled")
        with self._lock:
            self.rounded += int(np.count_nonzero(ROUNDS[weight.code]))
        return [HALVED_CODE[weight.code], scale_YX * np.float32(2)]

    def plain(self, weight: np.ndarray) -> np.ndarray:
        """Return a matrix without scales in the dtype to write."""
        stored = STORED[self.dtype]
        return weight.astype(DTYPES[stored], copy=False) if stored else weight


def _dequantized(weight: BlockScaled, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a weight's values in `dtype`; in float32 there is only one block row at a time."""
    values = np.empty(weight.shape, dtype)
    for row in range(len(weight.scale)):
        start = row * weight.block_height
        values[start : start + weight.block_height] = dequantize_block_row(weight, row)
    return values
