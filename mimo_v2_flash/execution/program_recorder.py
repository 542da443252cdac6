"""A dry-run backend: it records which programs a model calls, and how often, and runs none.

A program is traced on its first call with a new signature. Its outputs have the right shapes and
dtypes, and a constant value, so that neither weights nor a device are needed.
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
    """A program that was called during a dry run.

    Attributes
    ----------
    function
        Function that was compiled.
    arguments
        Arguments of the first call by parameter name, with meta arrays in place of arrays.
    traced
        Program of the function for these arguments.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    traced: TracedProgram


class ProgramRecorder:
    """A backend that traces and records the programs that are called, and runs none.

    Raises
    ------
    ImportError
        If nkipy is not installed; the message says how to install it.

    Attributes
    ----------
    value
        Value of every output's elements, 0 at first. At 1, a host that reads an overflow count
        sees an overflow, and also calls the program of the next larger bucket.
    programs
        Recorded programs in the order of their first calls; equal programs are recorded once.
    calls
        How often each program was called, by its index in `programs`.
    """

    execution_mode = "static"

    def __init__(self) -> None:
        self._trace = load_module("tracing", "the program recorder").trace
        self.value = 0
        self.programs: list[RecordedProgram] = []
        self.calls: Counter[int] = Counter()
        self._numbers: dict[Any, int] = {}  # index by call key, and by content
        self._outputs: list[tuple[TensorSpec, ...]] = []

    def to_device(self, tree: Any) -> Any:
        """Return `tree` with meta arrays in place of its arrays."""
        return meta_arrays(tree)

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function` as programs that are recorded, one per signature of the arguments."""

        def program(*args: Any, **kwargs: Any) -> Any:
            call = ProgramCall.of(function, donate, *args, **kwargs)
            if call.key not in self._numbers:
                self._numbers[call.key] = self._record(call)
            number = self._numbers[call.key]
            self.calls[number] += 1
            outputs = [
                _constant(spec.shape, spec.dtype, self.value) for spec in self._outputs[number]
            ]
            return fill_outputs(self.programs[number].traced, outputs)

        return program

    def _record(self, call: ProgramCall) -> int:
        """Trace a program, record it if it is new, and return its index."""
        arguments = meta_arrays(call.arguments)
        traced = self._trace(call.function, arguments, donate=call.donate)
        content = traced.module.SerializeToString(deterministic=True), traced.inputs
        if content not in self._numbers:
            self._numbers[content] = len(self.programs)
            self.programs.append(RecordedProgram(call.function, arguments, traced))
            self._outputs.append(program_io(traced.module).outputs)
        return self._numbers[content]


def meta_arrays(tree: Any) -> Any:
    """Return the pytree `tree` with meta arrays: zeros of the same shapes and dtypes.

    Meta arrays take no memory, since all their strides are zero, and must not be written into.
    Arrays that are meta arrays already are kept.
    """
    arrays = tree_arrays(tree)
    meta = {
        path: _constant(array.shape, array.dtype, 0)
        for path, array in arrays.items()
        if any(array.strides)
    }
    return tree_replace(tree, arrays | meta)


def _constant(shape: tuple[int, ...], dtype: Any, value: int) -> np.ndarray:
    return np.broadcast_to(np.full((), value, dtype), shape)
