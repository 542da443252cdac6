"""INT4: codes of four bits, and a float32 scale for each 128 columns of a row, 4.25 bits a weight.

Source: symmetric, without a zero point. Of 32 columns the first 16 are the lower four bits of 16
bytes, the others the upper, as in ggml's Q4_0.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from .quantized_tensor import StoredTensor
from .registry import register_format
from .scaled_codes import ScaledCodes, integer_scales

__all__ = ["Int4"]

LARGEST, RUN = 7, 16  # RUN: bytes


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
        runs = code.reshape(*code.shape[:-1], -1, 1, RUN) >> np.array([[0], [4]], np.uint8)
        signed = (runs & np.uint8(0x0F) ^ np.uint8(8)).astype(np.float32) - np.float32(8)
        return signed.reshape(*code.shape[:-1], 2 * code.shape[-1])

    @staticmethod
    def encode_groups(w_OGP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes from -7 to 7, halves rounded to even, and scales."""
        scale_OG = integer_scales(w_OGP, LARGEST)
        code_OGP = np.clip(np.rint(w_OGP / scale_OG[..., None]), -LARGEST, LARGEST)
        runs = code_OGP.astype(np.int8).view(np.uint8).reshape(*scale_OG.shape, -1, 2, RUN)
        packed = runs[..., 0, :] & np.uint8(0x0F) | runs[..., 1, :] << np.uint8(4)
        return packed.reshape(*scale_OG.shape, -1), scale_OG
