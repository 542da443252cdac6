"""Block-scaled FP8 weights: one float32 scale per block of rows and 128 columns.

Trainium2's FP8 ends at 240 where the checkpoint's ends at 448, so values are halved for it and
scales doubled. Doubling is exact. Halving is exact but for 16 of 254 finite codes, the odd ones of
the smallest numbers, which round to even by at most 2^-10 of the doubled scale.

Source: DeepSeek-V3, arXiv:2412.19437, section 3.3.2 (128 x 128 weight blocks); the format of
the hub's `weight_scale_inv`; E4M3 of arXiv:2209.05433, table 1. MiMo: blocks of 128 x 128, but
64 x 128 for the keys and values of full-attention layers, whose scales cross from K into V.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module

from .quantized_tensor import QuantizedTensor, StoredTensor
from .registry import register_format

__all__ = [
    "BLOCK",
    "FP8_MAX",
    "HALF_BLOCK",
    "BlockScaled",
    "MappedBlockScaled",
    "Shapes",
    "block_height",
    "check_scales",
    "check_values",
    "grid",
    "halved",
    "plain_grid",
    "plain_height",
    "quantize",
    "sliced_block_height",
    "widened",
]

BLOCK, HALF_BLOCK = 128, 64
FP8_MAX = 448.0
MIN_SCALE = np.float32(2.0**-126)  # below, float32 rounds scales coarsely, or to zero
MIN_SCALE_BITS, INFINITY_BITS = (int(x.view(np.int32)) for x in (MIN_SCALE, np.float32(np.inf)))
MAX_DOUBLED_SCALE = np.finfo(np.float32).max / 2
E4M3_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
HALF = (E4M3_VALUES / 2).astype(ml_dtypes.float8_e4m3fn)
HALVED_CODE = HALF.view(np.uint8)
ROUNDS = HALF.astype(np.float32) * 2 != E4M3_VALUES
LARGEST_DEVICE_CODE = 0x77  # of 240

Shapes = tuple[tuple[int, ...], tuple[int, ...]]  # of codes and of scales


@register_format
@dataclass(frozen=True, eq=False)
class BlockScaled(QuantizedTensor):
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

    format = "fp8"
    tensors = (
        StoredTensor("code", "weight", np.uint8),
        StoredTensor("scale", "weight_scale_inv", np.float32, (ml_dtypes.bfloat16, np.float16)),
    )

    def __post_init__(self) -> None:
        expected = grid(self.code.shape[-2:], self.block_height)
        if tuple(self.scale.shape[-2:]) != expected:
            raise ValueError(
                f"BlockScaled: scale is {tuple(self.scale.shape)}, expected {expected} at its end: "
                f"code is {tuple(self.code.shape)} in blocks of {self.block_height} x {BLOCK}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded weight."""
        return tuple(self.code.shape)

    def dequantize(self, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of the weight in float32."""
        start, stop, _ = rows.indices(self.shape[-2])
        value = np.take(E4M3_VALUES, self.code[..., start:stop, :].view(np.uint8), mode="clip")
        first, last = start // self.block_height, -(-stop // self.block_height)
        # "clip" alone skips a check; a scale row is repeated within its rows, not for each of them.
        scale = np.repeat(_exact(self.scale[..., first:last, :]), BLOCK, axis=-1)
        scale = scale[..., : self.shape[-1]]
        for row in range(first, last):
            begin = row * self.block_height - start
            value[..., max(begin, 0) : begin + self.block_height, :] *= scale[
                ..., row - first, None, :
            ]
        return value

    def shard(self, axis: int, indices: range) -> "BlockScaled":
        """Return a slice; rows that part blocks get a scale grid of lower blocks."""
        start, stop = indices.start, indices.stop
        if axis == 0:
            height = sliced_block_height(self.block_height, indices)
            blocks = np.arange(start // height, -(-stop // height)) * height // self.block_height
            return BlockScaled(self.code[start:stop], self.scale[blocks], height)
        if start % BLOCK:
            raise ValueError(
                f"a shard begins at column {start} of an FP8 weight {self.shape}, inside a block "
                f"of {BLOCK}: allowed is a tensor_parallel that splits between blocks"
            )
        code, scale = self.code[:, start:stop], self.scale[:, start // BLOCK : -(-stop // BLOCK)]
        code, scale = np.ascontiguousarray(code), np.ascontiguousarray(scale)
        return BlockScaled(code, scale, self.block_height)

    @classmethod
    def from_checkpoint(
        cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> "BlockScaled":
        """Return the weight; its scales are on a plain grid, and checked when first used."""
        return MappedBlockScaled.map(where, arrays["code"], arrays["scale"])

    @classmethod
    def check(cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError unless codes have `shape`, and both have their dtypes."""
        if arrays["code"].shape != shape:
            raise ValueError(f"{where} is {arrays['code'].shape}, the config asks for {shape}")
        super().check(where, shape, arrays)

    @classmethod
    def random(
        cls, shape: tuple[int, ...], values: np.ndarray, draw: Callable[[np.ndarray], np.ndarray]
    ) -> "BlockScaled":
        """Return codes of `values` under one scale."""
        unit = np.float32(np.max(np.abs(values)) / FP8_MAX)
        codes = (values / unit).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        return cls(draw(codes), np.full(grid(shape, BLOCK), unit))

    @cached_property
    def compiled(self) -> Any:
        """The codes and scales as `cpu.fp8` reads them."""
        loops = compiled_module("fp8")
        return loops and loops.compiled_blocks(self.code, self.scale, self.block_height)

    def to_device_layout(self) -> "BlockScaled":
        """Return codes as `ml_dtypes.float8_e4m3`, of the same value or of half the value."""
        if self.code.dtype != np.uint8:
            return self
        w = self
        if np.any(self.code & np.uint8(0x7F) > LARGEST_DEVICE_CODE):
            check_values("an FP8 weight", self)
            w = halved("an FP8 weight", self)
        return BlockScaled(w.code.view(ml_dtypes.float8_e4m3), w.scale, w.block_height)

    def traced_product(self, x: Any) -> Any:
        """Return the sum of dots over columns of blocks, scaled; it is the weight that is not."""
        return importlib.import_module(".traced_fp8", __package__).scaled_dot(x, self)


class MappedBlockScaled(BlockScaled):
    """An FP8 weight of a mapped file; its scales are checked and widened once, at first use.

    Until then no byte of it is read, and from then on `scale` is an ordinary attribute.
    """

    @classmethod
    def map(cls, where: str, code_OI: np.ndarray, scale_YX: np.ndarray) -> "MappedBlockScaled":
        """Return the weight of these codes and scales.

        Raises
        ------
        ValueError
            If the scales are on no plain grid; the message begins with `where`.
        """
        weight = cls(code_OI, scale_YX, plain_height(where, code_OI.shape, scale_YX.shape))
        vars(weight)["unchecked"] = f"{where}_scale_inv", vars(weight).pop("scale")
        return weight

    @cached_property
    def scale(self) -> np.ndarray:
        """The scales in float32; ValueError names the tensor and its file if one is bad."""
        where, scale_YX = vars(self)["unchecked"]
        checked = BlockScaled(self.code, widened(scale_YX), self.block_height)
        check_scales(where, checked)
        return checked.scale


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
    scale_OX = np.repeat(scale_YX, block_height, axis=0)[:outputs]
    unit_OI = w_OI / np.repeat(scale_OX, BLOCK, axis=1)[:, :inputs]
    # E4M3 has no infinity: values well above 448 would become NaN.
    code_OI = np.clip(unit_OI, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
    return BlockScaled(code_OI.view(np.uint8), scale_YX, block_height)


def halved(where: str, w: BlockScaled) -> BlockScaled:
    """Return half the values with doubled scales, for Trainium2; `ROUNDS` says which round.

    Raises
    ------
    ValueError
        If a scale is too large to be doubled; the message begins with `where`.
    """
    if w.scale.max() > MAX_DOUBLED_SCALE:
        raise ValueError(f"{where}: a scale of {w.scale.max()} is too large to be doubled")
    return BlockScaled(HALVED_CODE[w.code], w.scale * np.float32(2), w.block_height)


def check_values(where: str, w: BlockScaled) -> None:
    """Raise ValueError, beginning with `where`, if a code is NaN, or for `check_scales`."""
    if np.isnan(E4M3_VALUES)[w.code].any():
        raise ValueError(f"{where}: holds NaN")
    check_scales(f"{where}_scale_inv", w)


def check_scales(where: str, w: BlockScaled) -> None:
    """Raise ValueError, beginning with `where`, unless all scales are positive, finite numbers.

    A scale may be zero where all codes of its block are: their values are zero without doubt.
    """
    bits = w.scale.view(np.int32)  # a comparison of floats may take subnormals for zero
    is_zero = bits == 0
    is_sound = (bits >= 0) & (bits < INFINITY_BITS)
    if not is_sound.all() or not all(_is_zero_block(w, *block) for block in np.argwhere(is_zero)):
        raise ValueError(
            f"{where} holds NaN, infinity, zero or a negative number (zero is allowed for a block "
            "of zeros)"
        )


def _is_zero_block(w: BlockScaled, *block: int) -> bool:
    *stack, y, x = block
    height = w.block_height
    code = w.code[(*stack, slice(y * height, (y + 1) * height), slice(x * BLOCK, (x + 1) * BLOCK))]
    return not np.any(code.view(np.uint8) & np.uint8(0x7F))


def widened(scale_YX: np.ndarray) -> np.ndarray:
    """Return scales in float32: exactly what a checkpoint has in bfloat16 or float16."""
    return scale_YX.astype(np.float32, copy=False)


def _exact(scale: np.ndarray) -> np.ndarray:
    """Return `scale`, in float64 if one is subnormal: a process may flush those to zero."""
    bits = scale.view(np.int32)
    is_subnormal = bits < MIN_SCALE_BITS
    return np.where(is_subnormal, bits * 2.0**-149, scale) if is_subnormal.any() else scale


def plain_grid(where: str, code_OI: np.ndarray, scale_YX: np.ndarray) -> BlockScaled:
    """Return a weight whose scales are on a plain grid; ValueError as for `plain_height`."""
    return BlockScaled(code_OI, scale_YX, plain_height(where, code_OI.shape, scale_YX.shape))


def plain_height(where: str, code: tuple[int, ...], scale: tuple[int, ...]) -> int:
    """Return the height of blocks of a weight on a plain grid, from its shape and its scales'.

    Raises
    ------
    ValueError
        If the number of scale rows or columns is another; the message begins with `where`.
    """
    height = block_height((code, scale))
    if height is None:
        grids = " or ".join(str(grid(code, h)) for h in (BLOCK, HALF_BLOCK))
        raise ValueError(
            f"{where}: {code} has scales {scale}, expected {grids}: blocks of {BLOCK} or "
            f"{HALF_BLOCK} rows"
        )
    return height


def block_height(*weights: Shapes) -> int | None:
    """Return the block height that puts the scales of all `weights` on a plain grid, or None."""
    heights = (BLOCK, HALF_BLOCK)
    return next((h for h in heights if all(grid(code, h) == s for code, s in weights)), None)


def sliced_block_height(height: int, rows: range) -> int:
    """Return the height of blocks in a slice of `rows`, from blocks of `height`.

    It is the same in all equal shards: heads of 192 rows in blocks of 128 have blocks of 64.
    """
    return gcd(height, rows.start, len(rows))


def grid(shape: tuple[int, ...], height: int) -> tuple[int, int]:
    """Return the shape of the scales of a weight of `shape` in blocks of `height` rows."""
    outputs, inputs = shape
    return -(-outputs // height), -(-inputs // BLOCK)
