"""The XLA backend: runs on the CPU the programs that neuronx-cc would compile for Trainium."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from .executable import Executable, cpu_devices
from .program_call import ProgramArray, ProgramCall, check_on_device, fill_outputs
from .pytree import tree_arrays, tree_replace
from .tracing import TracedProgram, trace

if TYPE_CHECKING:
    from mimo_v2_flash.parallel import HostGroup

__all__ = ["XlaArray", "XlaBackend"]


class XlaArray(ProgramArray):
    """An array on an XLA device."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return a copy on the host."""
        return np.array(self.handle, dtype)


class XlaBackend:
    """The XLA backend, which traces and compiles one program per input signature.

    Parameters
    ----------
    group : HostGroup, optional
        Ranks that are threads of this process and share this backend. Each rank is a replica of
        every program, on its own device, and all call the same programs in the same order. A
        single rank by default.

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
        """All traced programs, in the order of their first calls."""
        return [traced for traced, _ in self._loaded.values()]

    def to_device(self, tree: Any) -> Any:
        """Return `tree` with its arrays copied to this rank's device."""
        return tree_replace(tree, {path: self._upload(a) for path, a in tree_arrays(tree).items()})

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function` as programs, one per signature of the arguments.

        Inputs may be host arrays, except for buffers that are updated in place, which must be on
        the device. The array parameter `donate` gives its buffer to the first output.
        """

        def program(*args: Any, **kwargs: Any) -> Any:
            call = ProgramCall.of(function, donate, *args, **kwargs)
            inputs = {path: self._upload(array) for path, array in call.arrays.items()}
            self._values[self._rank] = [array.handle for array in inputs.values()]
            self._barrier(hash(call.key))
            if self._rank == 0:
                self._results = list(self._load(call)(self._values))
            self._barrier(0)
            results, self._results[self._rank] = self._results[self._rank], ()
            self._values[self._rank] = []  # what a caller drops, a cache for instance, is freed
            return _outputs(self._loaded[call.key][0], inputs, results)

        return program

    @property
    def _rank(self) -> int:
        return self._group.rank if self._group else 0

    def _barrier(self, key: int) -> None:
        """Wait for the other ranks; raise ValueError if their keys differ."""
        if self._group and len(set(self._group.all_gather(np.array([key])).flat)) > 1:
            raise ValueError(
                "mismatched programs: replicas called different programs, or different shapes"
            )

    def _load(self, call: ProgramCall) -> Executable:
        if call.key not in self._loaded:
            traced = trace(call.function, call.arguments, donate=call.donate)
            self._loaded[call.key] = traced, Executable(traced.module, self._devices)
        traced, executable = self._loaded[call.key]
        check_on_device(traced, call.arrays, XlaArray)
        return executable

    def _upload(self, array: Any) -> XlaArray:
        if isinstance(array, XlaArray):
            return array
        device = self._devices[self._rank]
        return XlaArray(jax.device_put(np.array(array), device))  # a copy: it may be donated


def _outputs(traced: TracedProgram, inputs: dict[str, XlaArray], results: Sequence[Any]) -> Any:
    """Return the function's output; buffers that were updated in place get their new values."""
    outputs = []
    for number, value in enumerate(results):
        path = traced.in_place.get(number)
        output = XlaArray(value) if path is None else inputs[path]
        output.handle = value
        outputs.append(output)
    return fill_outputs(traced, outputs)
