"""Weights as codes of a few bits, and a scale for each group of columns: integers, MXFP4.

A format states its numbers and how a group is encoded. The scales are a tensor of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module

from .quantized_tensor import AxisSlice, QuantizedTensor
from .rows import quantize_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

__all__ = ["ScaledCodes", "integer_scales", "packed_nibbles", "unpacked_nibbles"]

MIN_SCALE = np.float32(2.0**-126)  # below, float32 rounds scales coarsely, or to zero


@dataclass(frozen=True, eq=False)
class ScaledCodes(QuantizedTensor):
    """A weight [..., O, I] as codes and scales: value = number of the code x scale of its group.

    Attributes
    ----------
    code
        [..., O, I / per_byte], integers.
    scale
        [..., O, G]: each is of I / G neighbouring columns.
    """

    code: np.ndarray
    scale: np.ndarray

    per_byte: ClassVar[int] = 1

    @staticmethod
    @abstractmethod
    def numbers(code: np.ndarray) -> np.ndarray:
        """Return the numbers of codes in float32, without scales."""

    @staticmethod
    def factors(scale: np.ndarray) -> np.ndarray:
        """Return scales in float32."""
        return scale.astype(np.float32, copy=False)

    @staticmethod
    @abstractmethod
    def encode_groups(w_OGP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return codes [O, G, P / per_byte] and scales [O, G] of float32 values."""

    @classmethod
    def groups(cls, inputs: int) -> int:
        """Return how many scales a row of so many columns gets."""
        return inputs // cls.block

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., O, I]."""
        return (*self.code.shape[:-1], self.code.shape[-1] * self.per_byte)

    def dequantize(self, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of the weight in float32."""
        value, scale = self.numbers(self.code[..., rows, :]), self.factors(self.scale[..., rows, :])
        by_group = value.reshape(*scale.shape, value.shape[-1] // scale.shape[-1])
        return (by_group * scale[..., None]).reshape(value.shape)

    @classmethod
    def quantize(cls, weight: np.ndarray | QuantizedTensor, where: str = "a weight") -> Self:
        """Return codes and scales of a weight [O, I], as `QuantizedTensor.quantize` says."""
        return quantize_rows(cls, cls._encode, weight, where)

    @classmethod
    def _encode(cls, w_OI: np.ndarray) -> Self:
        (outputs, inputs), groups = w_OI.shape, cls.groups(w_OI.shape[1])
        w_OGP = w_OI.reshape(outputs, groups, inputs // groups)
        code_OGP, scale_OG = cls.encode_groups(w_OGP)
        return cls(code_OGP.reshape(outputs, inputs // cls.per_byte), scale_OG)

    def shard(self, axis: int, indices: range) -> Self:
        """Return a slice between groups."""
        shapes = {"code": self.code.shape, "scale": self.scale.shape}
        parts = self.shard_tensors("a weight", shapes, AxisSlice(axis, indices))
        return self._map(lambda field, array: _sliced(array, parts[field]))

    @classmethod
    def shard_tensors(
        cls, where: str, shapes: Mapping[str, tuple[int, ...]], axis_slice: AxisSlice
    ) -> dict[str, AxisSlice]:
        """Return the slices of codes and scales; a row's only scale is that of all its columns."""
        (axis, indices, _), inputs = axis_slice, shapes["code"][1] * cls.per_byte
        start, stop, groups = indices.start, indices.stop, shapes["scale"][1]
        unit, is_shared = inputs // groups, cls.block == 1 and groups == 1
        if axis == 0:
            return {"code": axis_slice, "scale": axis_slice}
        if not is_shared and (start % unit or stop % unit):
            raise ValueError(
                f"{where}: a shard of columns {start} to {stop} parts groups of {unit} of "
                f"{cls.format}: choose a tensor_parallel that splits between groups"
            )
        scales = AxisSlice(1, range(1) if is_shared else range(start // unit, stop // unit))
        return {
            "code": AxisSlice(1, range(start // cls.per_byte, stop // cls.per_byte)),
            "scale": scales,
        }

    @classmethod
    def stored_shapes(cls, shape: tuple[int, ...], ranks: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shapes of codes and scales of a weight [O, I]."""
        outputs, inputs = shape
        if inputs % cls.block:
            raise ValueError(f"{cls.format} stores multiples of {cls.block} columns, not {inputs}")
        return {"code": (outputs, inputs // cls.per_byte), "scale": (outputs, cls.groups(inputs))}

    @classmethod
    def from_checkpoint(
        cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Return the weight; float scales are widened to float32."""
        code, scale = arrays["code"], arrays["scale"]
        cls._check_shapes(where, shape, code.shape, scale.shape)
        return cls(code, scale.astype(np.float32, copy=False) if scale.dtype.kind != "u" else scale)

    @classmethod
    def check(cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError unless codes and scales are those of a weight of `shape`."""
        super().check(where, shape, arrays)
        cls._check_shapes(where, shape, arrays["code"].shape, arrays["scale"].shape)

    @classmethod
    def _check_shapes(cls, where: str, shape: Any, code: Any, scale: Any) -> None:
        expected = tuple(cls.stored_shapes(shape).values())
        accepted = {expected, (expected[0], (shape[0], 1))} if cls.block == 1 else {expected}
        if (tuple(code), tuple(scale)) not in accepted:
            raise ValueError(
                f"{where}: codes are {tuple(code)} with scales {tuple(scale)}, the config asks for "
                f"{expected[0]} with {expected[1]}"
            )

    @cached_property
    def compiled(self) -> Any:
        """The codes and scales as the format's module in `cpu` reads them."""
        loops = compiled_module(self.format)
        return loops and loops.compiled(self.code.view(np.uint8), self.scale)


def _sliced(array: np.ndarray, axis_slice: AxisSlice) -> np.ndarray:
    axis, indices, _ = axis_slice
    part = slice(indices.start, indices.stop)
    return array[part] if axis == 0 else np.ascontiguousarray(array[:, part])


def integer_scales(w_OGP: np.ndarray, largest: int) -> np.ndarray:
    """Return the scales [O, G] by which the largest magnitudes have the code `largest`.

    A scale is at least 2^-126, and 1 for a group of zeros.
    """
    top_OG = np.max(np.abs(w_OGP), axis=2, initial=0)
    scale_OG = np.maximum(top_OG / np.float32(largest), MIN_SCALE)
    return np.where(top_OG > 0, scale_OG, np.float32(1))


def packed_nibbles(code: np.ndarray) -> np.ndarray:
    """Return bytes of two codes, uint8: that of even index in the lower four bits."""
    return code[..., ::2] & np.uint8(0x0F) | code[..., 1::2] << np.uint8(4)


def unpacked_nibbles(code: np.ndarray) -> np.ndarray:
    """Return the codes of bytes, 0 to 15, in their order."""
    nibbles = np.empty((*code.shape, 2), np.uint8)
    nibbles[..., 0], nibbles[..., 1] = code & np.uint8(0x0F), code >> np.uint8(4)
    return nibbles.reshape(*code.shape[:-1], -1)
