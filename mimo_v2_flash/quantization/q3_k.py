"""ggml's Q3_K: 256 columns, codes of three bits, a scale of six for each 16, 3.44 bits a weight.

Source: ggml, `quantize_row_q3_K_ref` and `make_q3_quants` of `ggml-quants.c`.
"""

from dataclasses import dataclass

import numpy as np

from .ggml_blocks import half_bytes
from .k_quants import COLUMNS, KQuant, largest_first, nearest, quotient, sum_positions
from .quantized_tensor import StoredTensor
from .registry import register_format

__all__ = ["Q3K"]

GROUP, RUN = 16, 32  # columns of a scale, and of bytes that lie together
LARGEST, LARGEST_SCALE = 4, 32  # magnitudes of codes and of scales
NOTHING = np.float32(1e-15)  # below, a group is zero
ROUNDS = 5  # over the columns of a group
SHIFTS = np.array([0, 2, 4, 6], np.uint8)


@register_format
@dataclass(frozen=True, eq=False)
class Q3K(KQuant):
    """A weight [..., O, I] in Q3_K: value = factor x scale x code."""

    format = "q3_k"
    tensors = (StoredTensor("data", "weight_q3_k", np.uint8),)
    block_bytes, scales, group = 110, slice(108, 110), GROUP

    @staticmethod
    def decode_blocks(block_NB: np.ndarray) -> np.ndarray:
        """Return the float32 values [N, 256]."""
        upper_NHQJ = (block_NB[:, None, :RUN] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(
            -1, 2, 4, RUN
        )
        lower_NHQJ = block_NB[:, 32:96].reshape(-1, 2, 1, RUN) >> SHIFTS[:, None] & 3
        code_NHQJ = (lower_NHQJ | upper_NHQJ << 2).astype(np.float32) - LARGEST
        nibble_NG = np.concatenate([block_NB[:, 96:104] & 0x0F, block_NB[:, 96:104] >> 4], axis=1)
        bits_NG = (block_NB[:, None, 104:108] >> SHIFTS[:, None] & 3).reshape(-1, 16)
        scale_NG = (nibble_NG | bits_NG << 4).astype(np.float32) - LARGEST_SCALE
        scale_NG1 = (scale_NG * half_bytes(block_NB[:, 108:]))[:, :, None]
        return (code_NHQJ.reshape(-1, 16, GROUP) * scale_NG1).reshape(-1, COLUMNS)

    @staticmethod
    def search(x_PG: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the scale with the least squared error, weighted by x squared, codes one by one.

        Each code in turn is that which is best if the others stay, in five rounds.
        """
        top_G, weight_PG = largest_first(x_PG), x_PG * x_PG
        is_zero_G = np.abs(top_G) < NOTHING
        unit_G = np.float32(-LARGEST) / np.where(is_zero_G, np.float32(1), top_G)
        code_PG = nearest(unit_G * x_PG, -LARGEST, LARGEST - 1)
        product_G = sum_positions(weight_PG * x_PG * code_PG)
        square_G = sum_positions(weight_PG * code_PG * code_PG)
        for position in [*range(GROUP)] * ROUNDS:
            x_G, weight_G, code_G = x_PG[position], weight_PG[position], code_PG[position]
            rest_G = product_G - weight_G * x_G * code_G
            rest_square_G = square_G - weight_G * code_G * code_G
            new_G = nearest(quotient(x_G * rest_square_G, rest_G), -LARGEST, LARGEST - 1)
            new_product_G = rest_G + weight_G * x_G * new_G
            new_square_G = rest_square_G + weight_G * new_G * new_G
            is_better_G = (rest_G > 0) & (new_G != code_G) & (new_square_G > 0)
            gain_G = new_product_G * new_product_G * square_G
            is_better_G &= gain_G > product_G * product_G * new_square_G
            code_PG[position] = np.where(is_better_G, new_G, code_G)
            product_G = np.where(is_better_G, new_product_G, product_G)
            square_G = np.where(is_better_G, new_square_G, square_G)
        scale_G = np.where(square_G > 0, quotient(product_G, square_G), np.float32(0))
        return (np.where(is_zero_G, np.float32(0), scale_G),)

    @staticmethod
    def pack(w_NC: np.ndarray, *numbers_NG: np.ndarray) -> np.ndarray:
        """Return codes under scales of six bits, in units of the largest scale / -32."""
        (scale_NG,) = numbers_NG
        unit_N1 = quotient(np.float32(-LARGEST_SCALE), largest_first(scale_NG.T)[:, None])
        factor_N1 = quotient(np.float32(1), unit_N1).astype(np.float16)
        rounded_NG = nearest(unit_N1 * scale_NG, -LARGEST_SCALE, LARGEST_SCALE - 1)
        step_NG1 = (factor_N1.astype(np.float32) * rounded_NG)[:, :, None]
        exact_NGP = quotient(w_NC.reshape(*scale_NG.shape, GROUP), step_NG1)
        code_NGP = (nearest(exact_NGP, -LARGEST, LARGEST - 1) + LARGEST).astype(np.uint8)
        code_NRJ = code_NGP.reshape(-1, 8, RUN)
        upper_NRJ = code_NRJ >> 2 << np.arange(8, dtype=np.uint8)[:, None]
        lower_NHQJ = (code_NRJ & 3).reshape(-1, 2, 4, RUN) << SHIFTS[:, None]
        stored_NG = (rounded_NG + LARGEST_SCALE).astype(np.uint8)
        bits_NQ4 = (stored_NG >> 4).reshape(-1, 4, 4) << SHIFTS[:, None]
        parts = (
            np.bitwise_or.reduce(upper_NRJ, axis=1),
            np.bitwise_or.reduce(lower_NHQJ, axis=2),
            stored_NG[:, :8] & 0x0F | stored_NG[:, 8:] << 4,
            np.bitwise_or.reduce(bits_NQ4, axis=1),
            factor_N1.view(np.uint8),
        )
        return np.concatenate([part.reshape(len(w_NC), -1) for part in parts], axis=1)
