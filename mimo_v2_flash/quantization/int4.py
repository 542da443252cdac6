"""INT4: codes of four bits, and a float32 scale for each 128 columns of a row, 4.25 bits a weight.

Source: symmetric, without a zero point; of two codes of a byte that of even index is lower.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .quantized_tensor import StoredTensor
from .registry import register_format
from .scaled_codes import ScaledCodes, integer_scales, packed_nibbles, unpacked_nibbles

__all__ = ["Int4"]

LARGEST = 7


@register_format
@dataclass(frozen=True, eq=False)
class Int4(ScaledCodes):
    """A weight [..., O, I] as two's complement codes of four bits, two in a byte, and scales."""

    format = "int4"
    tensors = (
        StoredTensor("code", "weight_packed", np.uint8),
        StoredTensor("scale", "weight_scale", np.float32, (ml_dtypes.bfloat16, np.float16)),
    )
    block, per_byte = 128, 2

    @staticmethod
    def numbers(code: np.ndarray) -> np.ndarray:
        """Return the codes, -8 to 7, in float32."""
        return (unpacked_nibbles(code) ^ np.uint8(8)).astype(np.float32) - np.float32(8)

    @staticmethod
    def encode_groups(w_OGP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes from -7 to 7, halves rounded to even, and scales."""
        scale_OG = integer_scales(w_OGP, LARGEST)
        code_OGP = np.clip(np.rint(w_OGP / scale_OG[..., None]), -LARGEST, LARGEST)
        return packed_nibbles(code_OGP.astype(np.int8).view(np.uint8)), scale_OG
