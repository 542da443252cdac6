"""A backend that runs nothing: it notes which programs a model calls, and how often.

A program is traced on its first call with arrays of some shapes. Its answers have the right shapes
and one value everywhere, so that neither weights nor a device are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .io_spec import Port, ports
from .program_call import Call, answered
from .pytree import arrays, filled_with
from .registry import loaded

if TYPE_CHECKING:
    from .tracing import Traced

__all__ = ["Rehearsal", "Rehearsed", "hollow"]


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

    Raises
    ------
    ImportError
        If nkipy is not installed; the message says how to install it.

    Attributes
    ----------
    value
        What fills every answer, 0 at first. At 1 a host that counts what overflowed believes that
        something did, and calls the program of the next larger bucket too.
    programs
        All so far, in the order of their first calls; equal ones are one.
    calls
        How often each of them was called, by its number.
    """

    execution_mode = "static"

    def __init__(self) -> None:
        self._trace = loaded("tracing", "a list of programs").trace
        self.value = 0
        self.programs: list[Rehearsed] = []
        self.calls: Counter[int] = Counter()
        self._numbers: dict[Any, int] = {}  # by what is called, and by content
        self._outputs: list[tuple[Port, ...]] = []

    def place(self, record: Any) -> Any:
        """Return `record` with arrays in place of its own that take no memory."""
        return hollow(record)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` as programs, one for all arguments that differ in values alone."""

        def program(*positional: Any, **named: Any) -> Any:
            call = Call.of(function, *positional, **named)
            if call.key not in self._numbers:
                self._numbers[call.key] = self._traced(function, hollow(call.given))
            number = self._numbers[call.key]
            self.calls[number] += 1
            outputs = [
                _filled(port.shape, port.dtype, self.value) for port in self._outputs[number]
            ]
            return answered(self.programs[number].traced, outputs)

        return program

    def _traced(self, function: Callable[..., Any], given: dict[str, Any]) -> int:
        traced = self._trace(function, given)
        content = traced.module.SerializeToString(deterministic=True), traced.inputs
        if content not in self._numbers:
            self._numbers[content] = len(self.programs)
            self.programs.append(Rehearsed(function, given, traced))
            self._outputs.append(ports(traced.module).outputs)
        return self._numbers[content]


def hollow(record: Any) -> Any:
    """Return `record` with zeros in place of its arrays, of their shapes and dtypes.

    They take no memory, and are not to be written. Arrays that take none stay what they are.
    """
    found = {path: array for path, array in arrays(record).items() if any(array.strides)}
    empty = {path: _filled(array.shape, array.dtype, 0) for path, array in found.items()}
    return filled_with(record, arrays(record) | empty)


def _filled(shape: tuple[int, ...], dtype: Any, value: int) -> np.ndarray:
    return np.broadcast_to(np.full((), value, dtype), shape)
