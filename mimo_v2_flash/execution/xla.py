"""XLA on the CPU runs what neuronx-cc would get: the proof of a program without a Trainium."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .executable import Executable, cpu_devices
from .program_call import ProgramCall, check_on_device, fill_outputs
from .pytree import tree_arrays, tree_replace
from .tracing import TracedProgram, trace

if TYPE_CHECKING:
    from mimo_v2_flash.parallel import HostGroup

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

    Parameters
    ----------
    group : HostGroup, optional
        Ranks that are threads of this process and share this backend: each is a replica of every
        program, on a device of its own. All call the same programs in the same order. One rank
        alone if not given.

    Raises
    ------
    RuntimeError
        If jax has started with fewer devices than ranks.
    """

    execution_mode = "static"

    def __init__(self, group: HostGroup | None = None) -> None:
        self._group, size = group, group.size if group else 1
        self._devices = cpu_devices(size)
        self._loaded: dict[Any, tuple[TracedProgram, Executable]] = {}
        self._values: list[list[Any]] = [[] for _ in range(size)]
        self._results: list[tuple[Any, ...]] = []

    @property
    def programs(self) -> list[TracedProgram]:
        """All so far, in the order of their first calls."""
        return [traced for traced, _ in self._loaded.values()]

    def to_device(self, record: Any) -> Any:
        """Return `record` with its arrays copied to this rank's device."""
        return tree_replace(
            record, {path: self._placed(a) for path, a in tree_arrays(record).items()}
        )

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` as programs, one for all arguments that differ in values alone.

        Arrays may be the host's but for those that are changed in place, which must be placed. The
        program of an answer that is like its first argument overwrites that one.
        """

        def program(*positional: Any, **named: Any) -> Any:
            call = ProgramCall.of(function, *positional, **named)
            inputs = {path: self._placed(array) for path, array in call.arrays.items()}
            self._values[self._rank] = [array.value for array in inputs.values()]
            self._meet(hash(call.key))
            if self._rank == 0:
                self._results = self._load(call)(self._values)
            self._meet(0)
            return _answer(self._loaded[call.key][0], inputs, self._results[self._rank])

        return program

    @property
    def _rank(self) -> int:
        return self._group.rank if self._group else 0

    def _meet(self, key: int) -> None:
        """Wait for the other ranks; raise ValueError if they have come to another program."""
        if self._group and len(set(self._group.all_gather(np.array([key])).flat)) > 1:
            raise ValueError("replicas came to different programs, or to one of different shapes")

    def _load(self, call: ProgramCall) -> Executable:
        if call.key not in self._loaded:
            traced = trace(call.function, call.arguments)
            self._loaded[call.key] = traced, Executable(traced.module, self._devices)
        traced, executable = self._loaded[call.key]
        check_on_device(traced, call.arrays, XlaArray)
        return executable

    def _placed(self, array: Any) -> XlaArray:
        if isinstance(array, XlaArray):
            return array
        device = self._devices[self._rank]
        return XlaArray(jax.device_put(np.array(array), device))  # a copy: it may be donated


def _answer(traced: TracedProgram, inputs: dict[str, XlaArray], results: Sequence[Any]) -> Any:
    """Return what the program says, and give what it wrote in place its new values."""
    outputs = []
    for number, value in enumerate(results):
        path = traced.in_place.get(number)
        output = XlaArray(value) if path is None else inputs[path]
        output.value = value
        outputs.append(output)
    return fill_outputs(traced, outputs)
