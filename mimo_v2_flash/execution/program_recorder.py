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

from .io_spec import TensorSpec, program_io
from .program_call import ProgramCall, fill_outputs
from .pytree import tree_arrays, tree_replace
from .registry import load_module

if TYPE_CHECKING:
    from .tracing import TracedProgram

__all__ = ["ProgramRecorder", "RecordedProgram", "meta_arrays"]


@dataclass(frozen=True)
class RecordedProgram:
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
    arguments: dict[str, Any]
    traced: TracedProgram


class ProgramRecorder:
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
        self._trace = load_module("tracing", "a list of programs").trace
        self.value = 0
        self.programs: list[RecordedProgram] = []
        self.calls: Counter[int] = Counter()
        self._numbers: dict[Any, int] = {}  # by what is called, and by content
        self._outputs: list[tuple[TensorSpec, ...]] = []

    def to_device(self, record: Any) -> Any:
        """Return `record` with arrays in place of its own that take no memory."""
        return meta_arrays(record)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` as programs, one for all arguments that differ in values alone."""

        def program(*positional: Any, **named: Any) -> Any:
            call = ProgramCall.of(function, *positional, **named)
            if call.key not in self._numbers:
                self._numbers[call.key] = self._traced(function, meta_arrays(call.arguments))
            number = self._numbers[call.key]
            self.calls[number] += 1
            outputs = [
                _filled(spec.shape, spec.dtype, self.value) for spec in self._outputs[number]
            ]
            return fill_outputs(self.programs[number].traced, outputs)

        return program

    def _traced(self, function: Callable[..., Any], arguments: dict[str, Any]) -> int:
        traced = self._trace(function, arguments)
        content = traced.module.SerializeToString(deterministic=True), traced.inputs
        if content not in self._numbers:
            self._numbers[content] = len(self.programs)
            self.programs.append(RecordedProgram(function, arguments, traced))
            self._outputs.append(program_io(traced.module).outputs)
        return self._numbers[content]


def meta_arrays(record: Any) -> Any:
    """Return `record` with zeros in place of its arrays, of their shapes and dtypes.

    They take no memory, and are not to be written. Arrays that take none stay what they are.
    """
    found = {path: array for path, array in tree_arrays(record).items() if any(array.strides)}
    empty = {path: _filled(array.shape, array.dtype, 0) for path, array in found.items()}
    return tree_replace(record, tree_arrays(record) | empty)


def _filled(shape: tuple[int, ...], dtype: Any, value: int) -> np.ndarray:
    return np.broadcast_to(np.full((), value, dtype), shape)
