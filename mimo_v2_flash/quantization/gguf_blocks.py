"""Weights in those block formats of ggml that have no loops: the package gguf dequantises tiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from .quantized_tensor import QuantizedTensor, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

__all__ = ["GGUFBlocks"]


@dataclass(frozen=True, eq=False)
class GGUFBlocks(QuantizedTensor):
    """A weight [..., O, I] in a block format of ggml, as a GGUF file has it.

    Attributes
    ----------
    blocks
        Its bytes, uint8 [..., O, bytes of a row].
    type
        The name of the format: "Q5_K", "IQ4_XS", whatever the package gguf dequantises.
    """

    blocks: np.ndarray
    type: str = field(metadata={"static": True})
    format: ClassVar[str] = "ggml"
    tensors: ClassVar[tuple[StoredTensor, ...]] = (StoredTensor("blocks", "weight", np.uint8),)

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., O, I]."""
        *rows, row_bytes = self.blocks.shape
        block, size = self._block
        return (*rows, row_bytes // size * block)

    def dequantize(self, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of O of the weight, all by default, in float32."""
        import gguf  # noqa: PLC0415  optional; whoever has such bytes has it

        part = np.ascontiguousarray(self.blocks[..., rows, :])
        shape = (*part.shape[:-1], self.shape[-1])
        if not part.size:  # which the package does not take
            return np.empty(shape, np.float32)
        kind = gguf.GGMLQuantizationType[self.type]
        values: np.ndarray = gguf.dequantize(part.reshape(-1, part.shape[-1]), kind)
        return values.astype(np.float32, copy=False).reshape(shape)

    def shard(self, axis: int, indices: range) -> Self:
        """Return a slice of a weight [O, I]: rows as views, whole blocks of columns as a copy."""
        if axis == 0:
            return self._map(lambda _, blocks: blocks[indices.start : indices.stop])
        block, size = self._block
        if indices.start % block or indices.stop % block:
            raise ValueError(
                f"columns {indices.start} to {indices.stop} part blocks of {self.type}, which "
                f"begin at multiples of {block}"
            )
        part = slice(indices.start // block * size, indices.stop // block * size)
        return self._map(lambda _, blocks: np.ascontiguousarray(blocks[:, part]))

    @classmethod
    def from_checkpoint(
        cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Refuse: safetensors files have no such weights."""
        raise TypeError(f"{where}: {cls.format} is stored in GGUF files alone")

    @property
    def _block(self) -> tuple[int, int]:
        import gguf  # noqa: PLC0415

        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[self.type]]
        return int(block), int(size)
