"""INT8: codes of a byte, and a float32 scale for each 128 columns of a row, or for the row.

A row that is no multiple of 128 columns has one scale, and so has what `quantize_by_row` makes.

Source: symmetric, without a zero point; the tensors' names are those of compressed-tensors.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .quantized_tensor import QuantizedTensor, StoredTensor
from .registry import register_format
from .rows import quantize_rows
from .scaled_codes import ScaledCodes, integer_scales

__all__ = ["Int8", "quantize_by_row"]

GROUP, LARGEST = 128, 127


@register_format
@dataclass(frozen=True, eq=False)
class Int8(ScaledCodes):
    """A weight [..., O, I] as int8 codes and float32 scales [..., O, I / 128] or [..., O, 1]."""

    format = "int8"
    tensors = (
        StoredTensor("code", "weight", np.int8),
        StoredTensor("scale", "weight_scale", np.float32, (ml_dtypes.bfloat16, np.float16)),
    )

    @classmethod
    def groups(cls, inputs: int) -> int:
        """Return the number of groups of 128 columns, or 1."""
        return inputs // GROUP if inputs and inputs % GROUP == 0 else 1

    @staticmethod
    def numbers(code: np.ndarray) -> np.ndarray:
        """Return the codes in float32."""
        return code.astype(np.float32)

    @staticmethod
    def encode_groups(w_OGP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes from -127 to 127, halves rounded to even, and scales."""
        scale_OG = integer_scales(w_OGP, LARGEST)
        code_OGP = np.rint(w_OGP / scale_OG[..., None])
        return np.clip(code_OGP, -LARGEST, LARGEST).astype(np.int8), scale_OG


def quantize_by_row(weight: np.ndarray | QuantizedTensor, where: str = "a weight") -> Int8:
    """Return a weight [O, I] in INT8 with one scale for each row."""

    def encode(w_OI: np.ndarray) -> Int8:
        code_O1I, scale_O1 = Int8.encode_groups(w_OI[:, None])
        return Int8(code_O1I[:, 0], scale_O1)

    return quantize_rows(Int8, encode, weight, where)
