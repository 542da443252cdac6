"""The protocol of stored weights: a logical matrix [out, in], however its bytes lie.

A format is a frozen dataclass without comparison (`eq=False`: arrays have none) that derives from
`QuantizedTensor`: an array for each tensor that a checkpoint has for a weight, and numbers. Stored
shapes need not be logical ones (two codes in a byte, records of groups), so sizes are bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from typing_extensions import Self

    from mimo_v2_flash.cpu.matmul import CompiledWeight

    from .stored_layout import Heads, Projections, StoredLayout

__all__ = ["AxisSlice", "QuantizedTensor", "StoredTensor"]


class AxisSlice(NamedTuple):
    """A slice of a tensor: `indices` along `axis`, after each row was repeated `repeat` times."""

    axis: int
    indices: range
    repeat: int = 1


class StoredTensor(NamedTuple):
    """A tensor that a checkpoint has for a weight.

    Attributes
    ----------
    field
        The field of the format that holds it.
    suffix
        What stands for "weight" in its name.
    dtype
        NumPy's, as the file is read; 8-bit floats are read as uint8.
    widened
        Other dtypes that a file may have; the format widens them to `dtype`, exactly.
    file_dtype
        The safetensors dtype, where several are read as `dtype`.
    """

    field: str
    suffix: str
    dtype: Any
    widened: tuple[Any, ...] = ()
    file_dtype: str = ""

    def accepts(self, dtype: Any) -> bool:
        """Return whether a file may have `dtype`."""
        return any(dtype == accepted for accepted in (self.dtype, *self.widened))


class QuantizedTensor(ABC):
    """A weight [..., O, I] in a storage format, or a stack of them: the base class of all formats.

    Attributes
    ----------
    format
        The name that the format is found by.
    tensors
        The tensors of a weight in a checkpoint.
    block
        Columns that are stored together: a weight has a multiple of them.
    """

    format: ClassVar[str]
    tensors: ClassVar[tuple[StoredTensor, ...]]
    block: ClassVar[int] = 1

    # What a format states

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., O, I]."""

    @abstractmethod
    def dequantize(self, rows: slice = slice(None)) -> np.ndarray:
        """Return `rows` of O of the weight, all by default, in float32: NumPy alone, the oracle."""

    @abstractmethod
    def shard(self, axis: int, indices: range) -> Self:
        """Return a slice of a weight [O, I]: rows (axis 0) as views, columns (axis 1) as a copy.

        Raises
        ------
        ValueError
            If the slice parts what the format stores together; the message says where it may.
        """

    @classmethod
    @abstractmethod
    def from_checkpoint(
        cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """Return the weight of logical `shape` [O, I] from its tensors, by field, without a copy.

        Parameters
        ----------
        where : str
            Where the weight is, for messages.
        shape : tuple of int
            Its logical shape.
        arrays : mapping of str to array
            Its tensors, by field.

        Raises
        ------
        ValueError
            If the tensors do not fit each other or `shape`; the message begins with `where`.
        """

    # What a format may state

    @classmethod
    def check(cls, where: str, shape: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError, which begins with `where`, if a tensor's dtype or values are wrong.

        Parameters
        ----------
        where, shape, arrays
            As of `from_checkpoint`.
        """
        for tensor in cls.tensors:
            if not tensor.accepts(dtype := arrays[tensor.field].dtype):
                accepted = " or ".join(str(np.dtype(d)) for d in (tensor.dtype, *tensor.widened))
                raise ValueError(
                    f"{where}: its {tensor.suffix} is {dtype}, expected {accepted}, as "
                    f"{cls.format} is stored"
                )

    @classmethod
    def quantize(cls, weight: np.ndarray | QuantizedTensor, where: str = "a weight") -> Self:
        """Return a weight [O, I] in this format, its rows quantized a few megabytes at a time.

        Parameters
        ----------
        weight
            A float array, or a weight in another format: then what its numbers are, in float32.
        where
            The beginning of messages.

        Raises
        ------
        ValueError
            If I is no multiple of `block`, or a value is not finite or too large for the format.
        """
        raise TypeError(f"{cls.format}: no weight can be quantized to it")

    @classmethod
    def random(
        cls, shape: tuple[int, ...], values: np.ndarray, draw: Callable[[np.ndarray], np.ndarray]
    ) -> Self:
        """Return a weight of random elements of `values`; `draw` picks at random from a table.

        Parameters
        ----------
        shape : tuple of int
            Logical shape.
        values : array, float32
            What elements may be.
        draw : callable
            Returns an array of random entries of a table.
        """
        raise TypeError(f"{cls.format} has no random weights")

    @classmethod
    def stored_shapes(cls, shape: tuple[int, ...], ranks: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of a weight [O, I], each of `ranks` parts by itself."""
        raise TypeError(f"{cls.format} does not say the shapes of its tensors")

    @classmethod
    def joins_heads(cls, heads: Heads, ranks: int) -> bool:
        """Return whether k and v of these heads, quantized on `ranks` ranks, share numbers."""
        return False

    @classmethod
    def row_groups(cls, where: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Return how many rows of a weight [O, I] a row of each of its tensors stands for: one.

        Raises
        ------
        ValueError
            If the tensors' `shapes` do not fit each other; the message begins with `where`.
        """
        return dict.fromkeys(shapes, 1)

    @classmethod
    def joint_layout(
        cls,
        projections: Projections,
        tensors: Mapping[str, Any],
        where: Callable[[str], str],
    ) -> StoredLayout | None:
        """Return the layout of a layer's projections that must be read together, if they must.

        Parameters
        ----------
        projections
            The layer's q, k and v.
        tensors
            What has a `shape`, by name: arrays, or entries of headers.
        where
            Returns the beginning of messages about the tensor of a name.
        """
        return None

    @classmethod
    def shard_tensors(
        cls, where: str, shapes: Mapping[str, tuple[int, ...]], axis_slice: AxisSlice
    ) -> dict[str, AxisSlice]:
        """Return the slice of each tensor that a slice of a weight [O, I] has, by field.

        Without a format's own rule all tensors have the weight's rows, and its columns or none.

        Parameters
        ----------
        where : str
            Where the weight is, for messages.
        shapes : mapping of str to tuple of int
            Shapes of its tensors, by field.
        axis_slice : AxisSlice
            The slice of the weight.

        Raises
        ------
        ValueError
            If the slice parts what the format stores together; the message begins with `where`.
        """
        whole = {field: AxisSlice(0, range(shape[0])) for field, shape in shapes.items()}
        is_sliced = {f: axis_slice.axis < len(shape) for f, shape in shapes.items()}
        return {f: axis_slice if is_sliced[f] else whole[f] for f in shapes}

    @classmethod
    def full_blocks(cls, code_OI: np.ndarray) -> tuple[int, int]:
        """Return how many blocks of codes have the format's largest code, and how many could.

        Of a format in which that says nothing of where blocks lie, no block could.
        """
        return 0, 0

    def float32_rows(self, rows: slice) -> np.ndarray:
        """Return what `dequantize` does, by compiled code where there is some."""
        return self.dequantize(rows)

    def stored_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of its tensors, by field, as a file has them: no byte is read."""
        return {tensor.field: getattr(self, tensor.field) for tensor in self.tensors}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return the weight of other arrays that are like `stored_arrays`."""
        return self._map(lambda field, _: arrays[field])

    def check_values(self, where: str) -> None:
        """Raise ValueError, beginning with `where`, if a stored number is not finite."""
        for tensor in self.tensors:
            array = getattr(self, tensor.field)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{where}: its {tensor.suffix} holds NaN or infinity")

    def to_device_range(self, where: str) -> tuple[Self, int]:
        """Return the weight in the narrower range of Trainium2, and how many values that rounds.

        Raises
        ------
        ValueError
            If a value cannot be stored so; the message begins with `where`.
        """
        return self, 0

    def to_device_layout(self) -> QuantizedTensor:
        """Return the weight as traced programs take it."""
        return self

    @property
    def compiled(self) -> CompiledWeight | None:
        """The weight [O, I] as its compiled loops read it; None where there are none.

        Such a weight is dequantised tile by tile, and BLAS multiplies.
        """
        return None

    def traced_product(self, x: Any) -> Any:
        """Return a traced tensor `x` [N, I] times the transpose of the weight, float32."""
        raise TypeError(
            f"{self.format} has no product in traced programs: prepare the weights as bfloat16"
        )

    # What follows

    @classmethod
    def tensor_names(cls, weight: str) -> dict[str, str]:
        """Return the names of the tensors of the weight called `weight`, by field."""
        stem = weight.removesuffix("weight")
        return {tensor.field: stem + tensor.suffix for tensor in cls.tensors}

    @classmethod
    def is_stored(cls, names: Container[str], weight: str) -> bool:
        """Return whether all tensors of the weight called `weight` are among `names`."""
        stem = weight.removesuffix("weight")
        return all(stem + tensor.suffix in names for tensor in cls.tensors)

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], weight: str) -> dict[str, np.ndarray]:
        """Return the arrays of the weight called `weight` in a checkpoint, by field."""
        return {field: tensors[name] for field, name in cls.tensor_names(weight).items()}

    @classmethod
    def stack(cls, weights: Sequence[Self]) -> Self:
        """Return equal weights as one stack, a copy."""
        return weights[0]._map(lambda field, _: np.stack([getattr(w, field) for w in weights]))

    @classmethod
    def concatenate(cls, weights: Sequence[Self]) -> Self:
        """Return the rows of all weights [O, I], one after another, a copy if there are several."""
        if len(weights) == 1:
            return weights[0]
        return weights[0]._map(
            lambda field, _: np.concatenate([getattr(weight, field) for weight in weights])
        )

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return sum(int(getattr(self, tensor.field).nbytes) for tensor in self.tensors)

    def __len__(self) -> int:
        """Return the number of weights of a stack."""
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> Self:
        """Return one weight of a stack, or a part of the stack, as views."""
        return self._map(lambda _, array: array[index])

    def _map(self, function: Callable[[str, Any], Any]) -> Self:
        fields = (tensor.field for tensor in self.tensors)
        arrays = {field: function(field, getattr(self, field)) for field in fields}
        return replace(self, **arrays)  # type: ignore[type-var]
