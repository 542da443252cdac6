"""ggml's Q6_K: 256 columns, codes of six bits, a scale of a byte for each 16, 6.56 bits a weight.

Source: ggml, `quantize_row_q6_K_ref` and `make_qx_quants` of `ggml-quants.c`.
"""

from dataclasses import dataclass

import numpy as np

from .ggml_blocks import half_bytes
from .k_quants import COLUMNS, KQuant, largest_first, nearest, quotient, sum_positions
from .quantized_tensor import StoredTensor
from .registry import register_format

__all__ = ["Q6K"]

GROUP, RUN = 16, 32  # columns of a scale, and of bytes that lie together
LARGEST, LARGEST_SCALE = 32, 128  # magnitudes of codes and of scales
NOTHING = np.float32(1e-15)  # below, a group is zero
STEPS = [step for step in range(-9, 10) if step]


@register_format
@dataclass(frozen=True, eq=False)
class Q6K(KQuant):
    """A weight [..., O, I] in Q6_K: value = factor x scale x code."""

    format = "q6_k"
    tensors = (StoredTensor("data", "weight_q6_k", np.uint8),)
    block_bytes, scales, group = 210, slice(208, 210), GROUP

    @staticmethod
    def decode_blocks(block_NB: np.ndarray) -> np.ndarray:
        """Return the float32 values [N, 256]."""
        lower_NHIJ = block_NB[:, :128].reshape(-1, 2, 2, RUN)
        upper_NHJ = block_NB[:, 128:192].reshape(-1, 2, RUN)
        code_NHQJ = np.empty((len(block_NB), 2, 4, RUN), np.uint8)
        for quarter in range(4):
            nibble_NHJ = lower_NHIJ[:, :, quarter % 2] >> (quarter // 2 * 4) & 0x0F
            code_NHQJ[:, :, quarter] = nibble_NHJ | (upper_NHJ >> (2 * quarter) & 3) << 4
        code_NGP = code_NHQJ.reshape(-1, COLUMNS // GROUP, GROUP).astype(np.float32) - LARGEST
        scale_NG = block_NB[:, 192:208].view(np.int8) * half_bytes(block_NB[:, 208:])
        return (code_NGP * scale_NG[:, :, None]).reshape(-1, COLUMNS)

    @staticmethod
    def search(x_PG: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the scale with the least squared error, weighted by x squared, of 19."""
        top_G, weight_PG = largest_first(x_PG), x_PG * x_PG
        is_zero_G = np.abs(top_G) < NOTHING
        top_G = np.where(is_zero_G, np.float32(1), top_G)

        def fit(step: int) -> tuple[np.ndarray, np.ndarray]:
            unit_G = -(np.float32(LARGEST) + np.float32(0.1) * np.float32(step)) / top_G
            code_PG = nearest(unit_G * x_PG, -LARGEST, LARGEST - 1)
            products_PG, squares_PG = weight_PG * x_PG * code_PG, weight_PG * code_PG * code_PG
            return sum_positions(products_PG), sum_positions(squares_PG)

        product_G, square_G = fit(0)
        scale_G = quotient(product_G, square_G)
        best_G = scale_G * product_G
        for step in STEPS:
            product_G, square_G = fit(step)
            is_better_G = (square_G > 0) & (product_G * product_G > best_G * square_G)
            scale_G = np.where(is_better_G, quotient(product_G, square_G), scale_G)
            best_G = np.where(is_better_G, scale_G * product_G, best_G)
        return (np.where(is_zero_G, np.float32(0), scale_G),)

    @staticmethod
    def pack(w_NC: np.ndarray, *numbers_NG: np.ndarray) -> np.ndarray:
        """Return codes under scales of a byte, in units of the largest scale / -128."""
        (scale_NG,) = numbers_NG
        top_N1 = largest_first(scale_NG.T)[:, None]
        top_N1 = np.where(np.abs(top_N1) < NOTHING, np.float32(0), top_N1)
        unit_N1 = quotient(np.float32(-LARGEST_SCALE), top_N1)
        factor_N1 = quotient(np.float32(1), unit_N1).astype(np.float16)
        rounded_NG = np.minimum(np.rint(unit_N1 * scale_NG), np.float32(LARGEST_SCALE - 1))
        step_NG1 = (factor_N1.astype(np.float32) * rounded_NG)[:, :, None]
        exact_NGP = quotient(w_NC.reshape(*scale_NG.shape, GROUP), step_NG1)
        code_NGP = (nearest(exact_NGP, -LARGEST, LARGEST - 1) + LARGEST).astype(np.uint8)
        code_NHQJ = code_NGP.reshape(-1, 2, 4, RUN)
        lower_NHIJ = code_NHQJ[:, :, :2] & 0x0F | code_NHQJ[:, :, 2:] << 4
        upper_NHQJ = code_NHQJ >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None]
        upper_NHJ = np.bitwise_or.reduce(upper_NHQJ, axis=2)
        parts = (
            lower_NHIJ,
            upper_NHJ,
            rounded_NG.astype(np.int8).view(np.uint8),
            factor_N1.view(np.uint8),
        )
        return np.concatenate([part.reshape(len(w_NC), -1) for part in parts], axis=1)
