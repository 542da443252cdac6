"""ggml's Q8_0: blocks of 32 columns, a float16 scale and 32 codes of a byte, 8.5 bits a weight.

Source: ggml, `quantize_row_q8_0_ref`.
"""

from dataclasses import dataclass

import numpy as np

from .ggml_blocks import GgmlBlocks, half_bytes
from .quantized_tensor import StoredTensor
from .registry import register_format

__all__ = ["Q80"]

LARGEST_CODE = np.float32(127)
SMALLEST = np.float32(2.0**-126)  # below, 1 / scale may be infinite; as float16 it is zero


@register_format
@dataclass(frozen=True, eq=False)
class Q80(GgmlBlocks):
    """A weight [..., O, I] in Q8_0: value = scale x code."""

    format = "q8_0"
    tensors = (StoredTensor("data", "weight_q8_0", np.uint8),)
    block, block_bytes, scales = 32, 34, slice(0, 2)

    @staticmethod
    def decode_blocks(block_NB: np.ndarray) -> np.ndarray:
        """Return the float32 values [N, 32]."""
        codes = block_NB[:, 2:].view(np.int8).astype(np.float32)
        return codes * half_bytes(block_NB[:, :2])

    @staticmethod
    def encode_blocks(w_NC: np.ndarray) -> np.ndarray:
        """Return codes in units of the largest magnitude / 127, halves rounded away from zero."""
        scale_N1 = np.max(np.abs(w_NC), axis=1, keepdims=True) / LARGEST_CODE
        unit_N1 = np.where(scale_N1 >= SMALLEST, 1 / scale_N1, np.float32(0))
        exact_NC = np.abs(w_NC * unit_N1)
        floor_NC = np.floor(exact_NC)
        rounded_NC = floor_NC + (exact_NC - floor_NC >= 0.5)
        code_NC = np.copysign(rounded_NC, w_NC).astype(np.int8)
        half_N2 = scale_N1.astype(np.float16).view(np.uint8)
        return np.concatenate([half_N2, code_NC.view(np.uint8)], axis=1)
