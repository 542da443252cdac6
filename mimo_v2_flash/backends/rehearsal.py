"""A backend that runs nothing: it notes which programs a model calls, and how often.

A program is traced on its first call with arrays of some shapes. Its answers have the right shapes
and one value everywhere, so that neither weights nor a device are needed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature as signature_of
from typing import Any

import ml_dtypes
import numpy as np

from .records import arrays, filled_with, mapped, signature
from .tracing import Traced, trace

__all__ = ["Rehearsal", "Rehearsed", "hollow"]

DTYPES = {
    "PRED": np.bool_,
    "S32": np.int32,
    "U32": np.uint32,
    "U8": np.uint8,
    "F32": np.float32,
    "BF16": ml_dtypes.bfloat16,
    "F8E4M3": ml_dtypes.float8_e4m3,
}
"""Of a program's outputs, by HLO's names."""


@dataclass(frozen=True)
class Rehearsed:
    """A program that was called.

    Attributes
    ----------
    function
        What was compiled.
    given
        Its arguments by name: arrays that take no memory, and everything else as it was.
    traced
        The program.
    """

    function: Callable[..., Any]
    given: dict[str, Any]
    traced: Traced


class Rehearsal:
    """Traces what is called.

    Attributes
    ----------
    value
        What fills every answer, 0 at first. At 1 a host that counts what overflowed believes that
        something did, and calls the program of the next larger bucket too.
    programs
        All so far, in the order of their first calls.
    calls
        How often each of them was called, by its number.
    """

    form = "program"

    def __init__(self) -> None:
        self.value = 0
        self.programs: list[Rehearsed] = []
        self.calls: Counter[int] = Counter()
        self._numbers: dict[Any, int] = {}
        self._outputs: list[list[tuple[tuple[int, ...], Any]]] = []

    def place(self, record: Any) -> Any:
        """Return `record` with arrays in place of its own that take no memory."""
        return hollow(record)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` as programs, one for all arguments that differ in values alone."""

        def program(*positional: Any, **named: Any) -> Any:
            given = signature_of(function).bind(*positional, **named).arguments
            key = function, signature(given)
            if key not in self._numbers:
                self._numbers[key] = self._traced(function, hollow(given))
            number = self._numbers[key]
            self.calls[number] += 1
            answers = [_filled(shape, dtype, self.value) for shape, dtype in self._outputs[number]]
            return mapped(lambda _, n: answers[n], self.programs[number].traced.answer)

        return program

    def _traced(self, function: Callable[..., Any], given: dict[str, Any]) -> int:
        traced = trace(function, given)
        self.programs.append(Rehearsed(function, given, traced))
        self._outputs.append(_outputs(traced.module))
        return len(self.programs) - 1


def hollow(record: Any) -> Any:
    """Return `record` with zeros in place of its arrays, of their shapes and dtypes.

    They take no memory, and are not to be written.
    """
    found = arrays(record)
    return filled_with(record, {path: _filled(a.shape, a.dtype, 0) for path, a in found.items()})


def _filled(shape: tuple[int, ...], dtype: Any, value: int) -> np.ndarray:
    return np.broadcast_to(np.full((), value, dtype), shape)


def _outputs(module: Any) -> list[tuple[tuple[int, ...], Any]]:
    """Return the shapes and dtypes of what an `HloModuleProto` returns."""
    (entry,) = (c for c in module.computations if c.id == module.entry_computation_id)
    result = entry.program_shape.result
    names = result.DESCRIPTOR.fields_by_name["element_type"].enum_type.values_by_number
    return [
        (tuple(shape.dimensions), DTYPES[names[shape.element_type].name])
        for shape in (result.tuple_shapes or [result])
    ]
