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
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module

from .fp8_grid import BLOCK, HALF_BLOCK, grid, plain_height, sliced_block_height
from .quantized_tensor import AxisSlice, QuantizedTensor, StoredTensor
from .registry import register_format
from .rows import quantize_rows
from .stored_layout import Heads

__all__ = [
    "BLOCK",
    "FP8_MAX",
    "BlockScaled",
    "MappedBlockScaled",
    "check_scales",
    "quantize",
    "widened",
]

FP8_MAX = 448.0
MIN_SCALE = np.float32(2.0**-126)  # below, float32 rounds scales coarsely, or to zero
MIN_SCALE_BITS, INFINITY_BITS = (int(x.view(np.int32)) for x in (MIN_SCALE, np.float32(np.inf)))
MAX_DOUBLED_SCALE = np.finfo(np.float32).max / 2
E4M3_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
HALF = (E4M3_VALUES / 2).astype(ml_dtypes.float8_e4m3fn)
HALVED_CODE = HALF.view(np.uint8)
ROUNDS = HALF.astype(np.float32) * 2 != E4M3_VALUES
LARGEST_CODE, LARGEST_DEVICE_CODE = 0x7E, 0x77  # of 448 and 240


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
        StoredTensor("code", "weight", np.uint8, file_dtype="F8_E4M3"),
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
    def quantize(
        cls, weight: "np.ndarray | QuantizedTensor", where: str = "a weight"
    ) -> "BlockScaled":
        """Return `quantize` of a weight in blocks of 128 rows."""
        return quantize_rows(BlockScaled, quantize, weight, where, BLOCK)

    def float32_rows(self, rows: slice) -> np.ndarray:
        """Return `rows` of the weight in float32: compiled where they begin with a block."""
        weight = None if rows.start % self.block_height else self.compiled
        return weight.float32_rows(rows) if weight else self.dequantize(rows)

    @classmethod
    def random(
        cls, shape: tuple[int, ...], values: np.ndarray, draw: Callable[[np.ndarray], np.ndarray]
    ) -> "BlockScaled":
        """Return codes of `values` under one scale."""
        unit = np.float32(np.max(np.abs(values)) / FP8_MAX)
        codes = (values / unit).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        return cls(draw(codes), np.full(grid(shape, BLOCK), unit))

    @classmethod
    def stored_shapes(cls, shape: tuple[int, ...], ranks: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shapes of codes and scales; scale rows begin anew on each rank."""
        rows, columns = grid((shape[0] // ranks, shape[1]), BLOCK)
        return {"code": shape, "scale": (ranks * rows, columns)}

    @classmethod
    def joins_heads(cls, heads: Heads, ranks: int) -> bool:
        """Return whether a rank's k ends in half a block, which goes on into v."""
        ends_in_half = heads.head_dim % BLOCK and not heads.head_dim % HALF_BLOCK
        return bool(ends_in_half and not heads.v_head_dim % BLOCK and heads.keys == ranks)

    @classmethod
    def row_groups(cls, where: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Return 1 for codes, and for scales the height of blocks on a plain grid."""
        return {"code": 1, "scale": plain_height(where, shapes["code"], shapes["scale"])}

    @classmethod
    def joint_layout(cls, *request: Any) -> Any:
        """Return the layout of projections that were quantized together: fused, or k and v."""
        return importlib.import_module(".fp8_projections", __package__).joint_layout(*request)

    @classmethod
    def shard_tensors(
        cls, where: str, shapes: Mapping[str, tuple[int, ...]], axis_slice: AxisSlice
    ) -> dict[str, AxisSlice]:
        """Return the slices of codes and scales; rows that part blocks of 128 get blocks of 64."""
        axis, indices, _ = axis_slice
        height = cls.row_groups(where, shapes)["scale"]
        unit = sliced_block_height(height, indices) if axis == 0 else BLOCK
        if unit not in (BLOCK, HALF_BLOCK) or indices.start % unit:
            raise ValueError(
                f"{where}: shards of {len(indices)} {('rows', 'columns')[axis]} split FP8 blocks "
                f"of {BLOCK}: choose another tensor_parallel"
            )
        blocks = range(indices.start // unit, -(-indices.stop // unit))
        return {
            "code": axis_slice,
            "scale": AxisSlice(axis, blocks, height // unit if axis == 0 else 1),
        }

    @classmethod
    def full_blocks(cls, code_OI: np.ndarray) -> tuple[int, int]:
        """Return how many blocks of 128 x 128, from the top, have a code of 448, and are not zero.

        A scale is the largest magnitude / 448, so that every block has one on the grid that it was
        quantized on, and about three of four on a grid that is half a block off.
        """
        top_OX = np.maximum.reduceat(code_OI & 0x7F, np.arange(0, code_OI.shape[1], BLOCK), axis=1)
        top_YX = np.maximum.reduceat(top_OX, np.arange(0, len(code_OI), BLOCK), axis=0)
        return int(np.count_nonzero(top_YX == LARGEST_CODE)), int(np.count_nonzero(top_YX))

    def check_values(self, where: str) -> None:
        """Raise ValueError, beginning with `where`, if a code is NaN, or for `check_scales`."""
        if np.isnan(E4M3_VALUES)[self.code].any():
            raise ValueError(f"{where}: holds NaN")
        check_scales(f"{where}_scale_inv", self)

    def to_device_range(self, where: str) -> tuple["BlockScaled", int]:
        """Return half the values with doubled scales, and how many of them `ROUNDS` rounds."""
        if self.scale.max() > MAX_DOUBLED_SCALE:
            raise ValueError(f"{where}: a scale of {self.scale.max()} is too large to be doubled")
        half = BlockScaled(HALVED_CODE[self.code], self.scale * np.float32(2), self.block_height)
        return half, int(np.count_nonzero(ROUNDS[self.code]))

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
            self.check_values("an FP8 weight")
            w, _ = self.to_device_range("an FP8 weight")
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

        Parameters
        ----------
        where : str
            Where the weight is, for messages.
        code_OI, scale_YX : array
            FP8 codes, and a scale of each block.

        Raises
        ------
        ValueError
            If the scales are on no plain grid; the message begins with `where`.
        """
        height = plain_height(where, code_OI.shape, scale_YX.shape)
        return cls._unchecked(f"{where}_scale_inv", code_OI, scale_YX, height)

    @classmethod
    def _unchecked(
        cls, where: str, code_OI: np.ndarray, scale_YX: np.ndarray, height: int
    ) -> "MappedBlockScaled":
        weight = cls(code_OI, scale_YX, height)
        vars(weight)["unchecked"] = where, vars(weight).pop("scale")
        return weight

    def stored_arrays(self) -> dict[str, np.ndarray]:
        """Return codes and scales as the file has them."""
        mapped = vars(self).get("unchecked")
        return {"code": self.code, "scale": mapped[1] if mapped else self.scale}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> "MappedBlockScaled":
        """Return the weight of other codes and scales; these are checked at its first use."""
        where, _ = vars(self)["unchecked"]
        return self._unchecked(where, arrays["code"], arrays["scale"], self.block_height)

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
