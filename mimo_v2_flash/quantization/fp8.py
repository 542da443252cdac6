"""Block-scaled FP8 weights: one float32 scale per block of rows and 128 columns.

Source: DeepSeek-V3, arXiv:2412.19437, section 3.3.2 (128 x 128 weight blocks); the format of
the hub's `weight_scale_inv`; E4M3 of arXiv:2209.05433, table 1. MiMo: blocks of 128 x 128, but
64 x 128 for the keys and values of full-attention layers, whose scales cross from K into V.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["BLOCK", "FP8_MAX", "BlockScaled", "dequantize", "dequantize_block_row", "quantize"]

BLOCK = 128
FP8_MAX = 448.0
MIN_SCALE = np.finfo(np.float32).tiny  # below, float32 rounds scales coarsely, or to zero
E4M3_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True)
class BlockScaled:
    """A weight [..., O, I] as E4M3 codes and float32 scales.

    Attributes
    ----------
    code
        Codes [..., O, I], uint8 on the host, float8_e4m3 in a traced program.
    scale
        Scales [..., Y, X], float32: value = decoded code x scale of its block.
    block_height
        Number of rows of a block; the last block row and column may be partial.
    """

    code: Any
    scale: Any
    block_height: int = BLOCK

    def __post_init__(self) -> None:
        *_, outputs, inputs = self.code.shape
        grid = (-(-outputs // self.block_height), -(-inputs // BLOCK))
        if tuple(self.scale.shape[-2:]) != grid:
            raise ValueError(
                f"BlockScaled: scale is {tuple(self.scale.shape)}, expected {grid} at its end: "
                f"code is {tuple(self.code.shape)} in blocks of {self.block_height} x {BLOCK}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded weight."""
        return tuple(self.code.shape)

    def __len__(self) -> int:
        """Return the number of weights of a stack."""
        return self.shape[0]

    def __getitem__(self, index: int) -> "BlockScaled":
        """Return one weight of a stack, as views."""
        return BlockScaled(self.code[index], self.scale[index], self.block_height)


def quantize(w_OI, *, block_height: int = BLOCK) -> BlockScaled:
    """Return the nearest codes of `w_OI` under the scale `max |block| / 448` of each block.

    The scale is at least 2^-126, and 1 for a block of zeros.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    if not np.isfinite(w_OI.astype(np.float32)).all():
        raise ValueError("quantize: w_OI must be finite, got NaN or infinity")
    outputs, inputs = w_OI.shape
    row_Y = np.arange(0, outputs, block_height)
    amax_YI = np.maximum.reduceat(np.abs(w_OI.astype(np.float32)), row_Y, axis=0)
    amax_YX = np.maximum.reduceat(amax_YI, np.arange(0, inputs, BLOCK), axis=1)
    scale_YX = np.maximum(amax_YX / np.float32(FP8_MAX), MIN_SCALE)
    scale_YX = np.where(amax_YX > 0, scale_YX, np.float32(1))
    unit_OI = w_OI / _expand_scale(scale_YX, outputs, inputs, block_height)
    # E4M3 has no infinity: values well above 448 would become NaN.
    code_OI = np.clip(unit_OI, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
    return BlockScaled(code_OI.view(np.uint8), scale_YX, block_height)


def dequantize(w: BlockScaled) -> np.ndarray:
    """Return the whole weight in float32, for conversion and tests; kernels use `ops.matmul`."""
    outputs, inputs = w.shape[-2:]
    return E4M3_VALUES[w.code.view(np.uint8)] * _expand_scale(
        w.scale, outputs, inputs, w.block_height
    )


def dequantize_block_row(w: BlockScaled, row: int) -> np.ndarray:
    """Return the rows of block row `row`, the last axes [block_height or fewer, I], in float32."""
    start = row * w.block_height
    code = w.code[..., start : start + w.block_height, :].view(np.uint8)
    scale = np.repeat(w.scale[..., row : row + 1, :], BLOCK, axis=-1)[..., : w.shape[-1]]
    return np.take(E4M3_VALUES, code, mode="clip") * scale  # "clip" alone skips a check


def _expand_scale(scale_YX, outputs: int, inputs: int, block_height: int) -> np.ndarray:
    scale_OX = np.repeat(scale_YX, block_height, axis=-2)[..., :outputs, :]
    return np.repeat(scale_OX, BLOCK, axis=-1)[..., :inputs]
