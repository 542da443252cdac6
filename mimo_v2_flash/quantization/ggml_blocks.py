"""Weights as ggml stores them: rows of blocks of bytes, each with its scales, as in a GGUF file.

A format states its numbers and two functions of blocks; the bytes are ggml's to the last one.

Source: ggml, `ggml-common.h` and `ggml-quants.c`; the `gguf` package dequantizes the same.
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

__all__ = ["GgmlBlocks", "half_bytes"]


@dataclass(frozen=True, eq=False)
class GgmlBlocks(QuantizedTensor):
    """A weight [..., O, I] as blocks of `block` columns in `block_bytes` bytes.

    Attributes
    ----------
    data
        The blocks of each row, one after another: [..., O, I / block * block_bytes], uint8.
    """

    data: np.ndarray

    block_bytes: ClassVar[int]
    scales: ClassVar[slice]
    """The bytes of a block that are its float16 scales."""

    @staticmethod
    @abstractmethod
    def decode_blocks(block_NB: np.ndarray) -> np.ndarray:
        """Return the float32 values [N, block] of blocks of bytes."""

    @staticmethod
    @abstractmethod
    def encode_blocks(w_NC: np.ndarray) -> np.ndarray:
        """Return the bytes [N, block_bytes] of float32 values [N, block]: NumPy alone."""

    @classmethod
    def encode_fast(cls, w_NC: np.ndarray) -> np.ndarray:
        """Return what `encode_blocks` does, to the bit, compiled."""
        encoder = compiled_module(f"{cls.format}_encoder")
        return encoder.encode(w_NC) if encoder else cls.encode_blocks(w_NC)

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., O, I]."""
        *lead, size = self.data.shape
        return (*lead, size // self.block_bytes * self.block)

    def dequantize(self, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of the weight in float32."""
        data = self.data[..., rows, :]
        values = self.decode_blocks(data.reshape(-1, self.block_bytes))
        return values.reshape(*data.shape[:-1], self.shape[-1])

    @classmethod
    def quantize(cls, weight: np.ndarray | QuantizedTensor, where: str = "a weight") -> Self:
        """Return the blocks of a weight [O, I], as `QuantizedTensor.quantize` says."""
        return quantize_rows(cls, cls._encode, weight, where)

    @classmethod
    def _encode(cls, w_OI: np.ndarray) -> Self:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            block_NB = cls.encode_fast(w_OI.reshape(-1, cls.block))
        part = cls(block_NB.reshape(len(w_OI), w_OI.shape[1] // cls.block * cls.block_bytes))
        if not part._has_finite_scales():
            largest = np.max(np.abs(w_OI))
            raise OverflowError(f"holds {largest:.2g}, too much for {cls.format}'s float16 scales")
        return part

    def shard(self, axis: int, indices: range) -> Self:
        """Return a slice between blocks."""
        part = self._shard_bytes("a shard", axis, indices)
        rows = self.data[part.start : part.stop] if axis == 0 else self.data
        if axis == 1:
            rows = np.ascontiguousarray(self.data[:, part.start : part.stop])
        return type(self)(rows)

    @classmethod
    def _shard_bytes(cls, where: str, axis: int, indices: range) -> range:
        """Return the rows, or the bytes of the columns, of a slice; ValueError if it parts one."""
        start, stop = indices.start, indices.stop
        if axis == 0:
            return indices
        if start % cls.block or stop % cls.block:
            raise ValueError(
                f"{where} of columns {start} to {stop} parts blocks of {cls.block} of {cls.format}:"
                " choose a tensor_parallel that splits between blocks"
            )
        size = cls.block_bytes
        return range(start // cls.block * size, stop // cls.block * size)

    @classmethod
    def shard_tensors(
        cls, where: str, shapes: Mapping[str, tuple[int, ...]], axis_slice: AxisSlice
    ) -> dict[str, AxisSlice]:
        """Return the slice of the bytes."""
        axis, indices, _ = axis_slice
        return {"data": AxisSlice(axis, cls._shard_bytes(f"{where}: a shard", axis, indices))}

    @classmethod
    def stored_shapes(cls, shape: tuple[int, ...], ranks: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shape of the bytes of a weight [O, I]."""
        outputs, inputs = shape
        if inputs % cls.block:
            raise ValueError(f"{cls.format} stores multiples of {cls.block} columns, not {inputs}")
        return {"data": (outputs, inputs // cls.block * cls.block_bytes)}

    @classmethod
    def from_checkpoint(
        cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Return the weight, a view."""
        weight = cls(arrays["data"])
        if weight.shape != shape:
            raise ValueError(f"{where} is {weight.shape}, the config asks for {shape}")
        return weight

    @classmethod
    def check(cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError unless the bytes are those of a weight of `shape`."""
        super().check(where, shape, arrays)
        expected, stored = cls.stored_shapes(shape)["data"], tuple(arrays["data"].shape)
        if stored != expected:
            raise ValueError(
                f"{where}: its {cls.tensors[0].suffix} is {stored}, the config asks for {expected}"
            )

    def check_values(self, where: str) -> None:
        """Raise ValueError, beginning with `where`, if a scale is not finite."""
        if not self._has_finite_scales():
            raise ValueError(f"{where}: a scale is NaN or infinity")

    def _has_finite_scales(self) -> bool:
        blocks = self.data.reshape(-1, self.block_bytes)
        return bool(np.isfinite(half_bytes(blocks[:, self.scales])).all())

    @cached_property
    def compiled(self) -> Any:
        """The blocks as the format's module in `cpu` reads them."""
        loops = compiled_module(self.format)
        return loops and loops.compiled(self.data)


def half_bytes(byte_NB: np.ndarray) -> np.ndarray:
    """Return the float16 numbers whose bytes, 2 for each, are in the last axis, as float32."""
    return np.ascontiguousarray(byte_NB).view(np.float16).astype(np.float32)
