"""XLA on the CPU runs what neuronx-cc would get: the proof of a program without a Trainium."""

from collections.abc import Callable
from inspect import signature as signature_of
from typing import Any

import jax
import numpy as np

from .executable import Executable
from .records import arrays, filled_with, mapped, signature
from .tracing import Traced, trace

__all__ = ["XlaArray", "XlaBackend"]


class XlaArray:
    """An array on XLA's device, which programs may change in place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes' lengths."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype."""
        return np.dtype(self.value.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(self.value.nbytes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return a copy on the host."""
        return np.array(self.value, dtype)


class XlaBackend:
    """Traces a function on its first call with arrays of some shapes; later calls run it.

    Attributes
    ----------
    programs
        All so far.
    """

    form = "program"

    def __init__(self) -> None:
        self.programs: list[Traced] = []
        self._device = jax.devices("cpu")[0]

    def place(self, record: Any) -> Any:
        """Return `record` with its arrays copied to the device."""
        return filled_with(record, {path: self._placed(a) for path, a in arrays(record).items()})

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` as programs, one for all arguments that differ in values alone.

        Arrays may be the host's but for those that are changed in place, which must be placed. The
        program of an answer that is like its first argument overwrites that one.
        """
        compiled: dict[Any, tuple[Traced, Executable]] = {}

        def program(*positional: Any, **named: Any) -> Any:
            given = signature_of(function).bind(*positional, **named).arguments
            key = signature(given)
            if key not in compiled:
                traced = trace(function, given)
                compiled[key] = traced, Executable(traced.module, [self._device])
                self.programs.append(traced)
            return self._run(*compiled[key], arrays(given))

        return program

    def _run(self, traced: Traced, executable: Executable, given: dict[str, Any]) -> Any:
        inputs = self._inputs(traced, given)
        (results,) = executable([[array.value for array in inputs.values()]])
        outputs = []
        for number, value in enumerate(results):
            path = traced.in_place.get(number)
            output = XlaArray(value) if path is None else inputs[path]
            output.value = value
            outputs.append(output)
        return mapped(lambda _, number: outputs[number], traced.answer)

    def _inputs(self, traced: Traced, given: dict[str, Any]) -> dict[str, XlaArray]:
        """Return what is given, placed.

        Raises TypeError if the host would never see what the program writes.
        """
        written = set(traced.in_place.values()) - {traced.inputs[0]}
        if lost := [path for path in written if not isinstance(given[path], XlaArray)]:
            raise TypeError(f"{', '.join(sorted(lost))}: written in place, but not placed")
        return {path: self._placed(array) for path, array in given.items()}

    def _placed(self, array: Any) -> XlaArray:
        if isinstance(array, XlaArray):
            return array
        return XlaArray(jax.device_put(np.array(array), self._device))  # a copy: it may be donated
