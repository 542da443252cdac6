"""Readers of an `HloModuleProto`: its entry computation, array shapes, classes of opcodes.

Source: XLA, `hlo.proto` and `xla_data.proto`. The classes come with the module: none is imported.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

__all__ = ["ELEMENTWISE", "VIEWS", "ArrayShape", "array_shapes", "entry_computation"]

VIEWS = {"bitcast", "broadcast", "copy", "get-tuple-element", "reshape", "slice", "transpose"}
"""Opcodes whose result is a view of the operand, or of a part of it."""

ELEMENTWISE = {
    "abs", "add", "and", "ceil", "clamp", "compare", "convert", "cosine", "divide", "exponential",
    "exponential-minus-one", "floor", "log", "log-plus-one", "logistic", "maximum", "minimum",
    "multiply", "negate", "not", "or", "power", "rsqrt", "select", "shift-left",
    "shift-right-arithmetic", "shift-right-logical", "sign", "sine", "sqrt", "subtract", "tanh",
    "xor",
}  # fmt: skip
"""Opcodes that compute each element from the same element of every operand."""

ITEMSIZE = {
    "PRED": 1, "S8": 1, "U8": 1, "F8E4M3": 1, "F8E4M3FN": 1, "F8E5M2": 1, "S16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "S32": 4, "U32": 4, "F32": 4, "S64": 8, "U64": 8, "F64": 8, "C64": 8,
    "C128": 16,
}  # fmt: skip
"""Bytes per element, by element type."""


class ArrayShape(NamedTuple):
    """The shape of an array: its element type, such as "BF16", and the lengths of its axes."""

    type_name: str
    lengths: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many elements the array has."""
        return prod(self.lengths)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return ITEMSIZE[self.type_name]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.elements * self.itemsize


def entry_computation(module: Any) -> Any:
    """Return the entry computation of a module."""
    return next(c for c in module.computations if c.id == module.entry_computation_id)


def array_shapes(shape: Any) -> Iterator[ArrayShape]:
    """Yield the shape of each array in a `ShapeProto`: one, or those of a tuple."""
    if not shape.tuple_shapes:
        names = shape.DESCRIPTOR.fields_by_name["element_type"].enum_type.values_by_number
        yield ArrayShape(names[shape.element_type].name, tuple(shape.dimensions))
    for part in shape.tuple_shapes:
        yield from array_shapes(part)
