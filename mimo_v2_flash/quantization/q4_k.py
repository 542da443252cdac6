"""ggml's Q4_K: 256 columns, codes of four bits, scale and minimum for each 32, 4.5 bits a weight.

Source: ggml, `quantize_row_q4_K_ref` and `make_qkx2_quants` of `ggml-quants.c`.
"""

from dataclasses import dataclass

import numpy as np

from .ggml_blocks import half_bytes
from .k_quants import COLUMNS, KQuant, nearest, quotient, sum_positions
from .quantized_tensor import StoredTensor
from .registry import register_format

__all__ = ["Q4K"]

GROUP, GROUPS = 32, 8  # GROUP: columns of a scale, and of bytes that lie together
LARGEST, LARGEST_SCALE = 15, 63  # codes and scales
STEPS, ROUNDS = 21, 3  # STEPS: the largest code of a candidate is 14 to 16


@register_format
@dataclass(frozen=True, eq=False)
class Q4K(KQuant):
    """A weight [..., O, I] in Q4_K: value = factor x scale x code - other factor x minimum."""

    format = "q4_k"
    tensors = (StoredTensor("data", "weight_q4_k", np.uint8),)
    block_bytes, scales, group = 144, slice(0, 4), GROUP

    @staticmethod
    def decode_blocks(block_NB: np.ndarray) -> np.ndarray:
        """Return the float32 values [N, 256]."""
        byte_N3J = block_NB[:, 4:16].reshape(-1, 3, 4)
        upper_N2J = byte_N3J[:, :2] >> 2 & 0x30
        upper_N2J |= byte_N3J[:, 2:] >> np.array([0, 4], np.uint8)[:, None] & 0x0F
        bits_N2G = np.concatenate([byte_N3J[:, :2] & 0x3F, upper_N2J], axis=2)
        scale_N2G = bits_N2G.astype(np.float32) * half_bytes(block_NB[:, :4])[:, :, None]
        nibble_NP2J = block_NB[:, 16:].reshape(-1, 4, 1, GROUP) >> np.array([[0], [4]], np.uint8)
        code_NGJ = (nibble_NP2J & 0x0F).reshape(-1, GROUPS, GROUP).astype(np.float32)
        value_NGJ = code_NGJ * scale_N2G[:, 0, :, None] - scale_N2G[:, 1, :, None]
        return value_NGJ.reshape(-1, COLUMNS)

    @staticmethod
    def search(x_PG: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the scale and minus the minimum with the least weighted squared error.

        ggml's 21 candidates, then the codes of the best, fitted again. A weight is the magnitude
        of x and the root mean square of its group.
        """
        low_G, high_G = np.minimum(x_PG.min(axis=0), np.float32(0)), x_PG.max(axis=0)
        is_flat_G = high_G == low_G
        width_G = np.where(is_flat_G, np.float32(1), high_G - low_G)
        fit = _LineFit(x_PG)
        scale_G, minimum_G = np.float32(1) / (np.float32(LARGEST) / width_G), low_G
        best_G = fit.error(scale_G, minimum_G, fit.codes(np.float32(LARGEST) / width_G, low_G))
        for step in range(STEPS + ROUNDS):
            if step < STEPS:
                largest = np.float32(-1) + np.float32(0.1) * np.float32(step) + np.float32(LARGEST)
                code_PG = fit.codes(largest / width_G, low_G)
            else:
                code_PG = fit.codes(quotient(np.float32(1), scale_G), minimum_G)
            new_scale_G, new_minimum_G, determinant_G = fit.line(code_PG)
            error_G = fit.error(new_scale_G, new_minimum_G, code_PG)
            is_better_G = (determinant_G > 0) & (error_G < best_G)
            scale_G = np.where(is_better_G, new_scale_G, scale_G)
            minimum_G = np.where(is_better_G, new_minimum_G, minimum_G)
            best_G = np.where(is_better_G, error_G, best_G)
        return np.where(is_flat_G, np.float32(0), scale_G), -minimum_G

    @staticmethod
    def pack(w_NC: np.ndarray, *numbers_NG: np.ndarray) -> np.ndarray:
        """Return codes under scales and minima of six bits, in units of their largest / 63."""
        largest = np.float32(LARGEST_SCALE)
        number_N2G = np.stack(numbers_NG, axis=1)
        top_N21 = np.maximum(number_N2G.max(axis=2, keepdims=True), np.float32(0))
        unit_N21, factor_N21 = quotient(largest, top_N21), (top_N21 / largest).astype(np.float16)
        rounded_N2G = nearest(unit_N21 * number_N2G, 0, LARGEST_SCALE)
        step_N2G1 = (factor_N21.astype(np.float32) * rounded_N2G)[..., None]
        shifted_NGJ = w_NC.reshape(-1, GROUPS, GROUP) + step_N2G1[:, 1]
        code_NGJ = nearest(quotient(shifted_NGJ, step_N2G1[:, 0]), 0, LARGEST).astype(np.uint8)
        code_NP2J = code_NGJ.reshape(-1, 4, 2, GROUP)
        bits_N2G = rounded_N2G.astype(np.uint8)
        lower_N24, upper_N24 = bits_N2G[:, :, :4], bits_N2G[:, :, 4:]
        parts = (
            factor_N21.reshape(-1, 2).view(np.uint8),
            lower_N24 | upper_N24 >> 4 << 6,
            upper_N24[:, 0] & 0x0F | upper_N24[:, 1] << 4,
            code_NP2J[:, :, 0] | code_NP2J[:, :, 1] << 4,
        )
        return np.concatenate([part.reshape(len(w_NC), -1) for part in parts], axis=1)


class _LineFit:
    """Weighted least squares of groups x by a line of codes."""

    def __init__(self, x_PG: np.ndarray) -> None:
        mean_G = np.sqrt(sum_positions(x_PG * x_PG) / np.float32(GROUP))
        self.x_PG, self.weight_PG = x_PG, mean_G + np.abs(x_PG)
        self.weights_G = sum_positions(self.weight_PG)
        self.sum_G = sum_positions(self.weight_PG * x_PG)

    def codes(self, unit_G: np.ndarray, minimum_G: np.ndarray) -> np.ndarray:
        return nearest(unit_G * (self.x_PG - minimum_G), 0, LARGEST)

    def error(self, scale_G: np.ndarray, minimum_G: np.ndarray, code_PG: np.ndarray) -> np.ndarray:
        difference_PG = scale_G * code_PG + minimum_G - self.x_PG
        return sum_positions(self.weight_PG * (difference_PG * difference_PG))

    def line(self, code_PG: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the scale and the minimum, at most zero, and the determinant."""
        part_PG = self.weight_PG * code_PG
        first_G, second_G = sum_positions(part_PG), sum_positions(part_PG * code_PG)
        mixed_G = sum_positions(part_PG * self.x_PG)
        determinant_G = self.weights_G * second_G - first_G * first_G
        scale_G = quotient(self.weights_G * mixed_G - self.sum_G * first_G, determinant_G)
        minimum_G = quotient(second_G * self.sum_G - first_G * mixed_G, determinant_G)
        is_positive_G = minimum_G > 0
        scale_G = np.where(is_positive_G, quotient(mixed_G, second_G), scale_G)
        return scale_G, np.where(is_positive_G, np.float32(0), minimum_G), determinant_G
