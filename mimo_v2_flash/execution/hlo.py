"""What every reader of an `HloModuleProto` needs: its entry, and shapes in words and numbers.

Source: XLA, `hlo.proto` and `xla_data.proto`. Nothing is imported: a module brings its own classes.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

__all__ = ["ELEMENTWISE", "VIEWS", "ArrayShape", "array_shapes", "entry_computation"]

VIEWS = {"bitcast", "broadcast", "copy", "get-tuple-element", "reshape", "slice", "transpose"}
"""Operators that give what they are given, or a part of it, seen in another way."""

ELEMENTWISE = {
    "abs", "add", "and", "ceil", "clamp", "compare", "convert", "cosine", "divide", "exponential",
    "exponential-minus-one", "floor", "log", "log-plus-one", "logistic", "maximum", "minimum",
    "multiply", "negate", "not", "or", "power", "rsqrt", "select", "shift-left",
    "shift-right-arithmetic", "shift-right-logical", "sign", "sine", "sqrt", "subtract", "tanh",
    "xor",
}  # fmt: skip
"""Operators of which each element follows from the same elements of the operands."""

ITEM = {
    "PRED": 1, "S8": 1, "U8": 1, "F8E4M3": 1, "F8E4M3FN": 1, "F8E5M2": 1, "S16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "S32": 4, "U32": 4, "F32": 4, "S64": 8, "U64": 8, "F64": 8, "C64": 8,
    "C128": 16,
}  # fmt: skip
"""Bytes of an element."""


class ArrayShape(NamedTuple):
    """An array's shape: the name of its element type, such as "BF16", and its axes' lengths."""

    type_name: str
    lengths: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many there are."""
        return prod(self.lengths)

    @property
    def item(self) -> int:
        """Bytes of one."""
        return ITEM[self.type_name]

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return self.elements * self.item


def entry_computation(module: Any) -> Any:
    """Return the computation that a module begins with."""
    return next(c for c in module.computations if c.id == module.entry_computation_id)


def array_shapes(shape: Any) -> Iterator[ArrayShape]:
    """Yield the array that a `ShapeProto` describes, or those of a tuple."""
    if not shape.tuple_shapes:
        names = shape.DESCRIPTOR.fields_by_name["element_type"].enum_type.values_by_number
        yield ArrayShape(names[shape.element_type].name, tuple(shape.dimensions))
    for part in shape.tuple_shapes:
        yield from array_shapes(part)
