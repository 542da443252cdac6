"""The Trainium2 backend: neuronx-cc compiles, the Neuron runtime runs, through nkipy's spike.

Source: nkipy, `runtime/device_kernel.py` and spike, `spike_model.py`, for a NEFF's inputs. A
process has one core; weights, cache and hidden states stay in its memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spike import SpikeModel, get_spike_singleton
from spike._spike import Spike, SpikeRuntimeError

from .compile_cache import COMPILE_CACHE
from .cores import claim_core
from .device_arrays import DeviceArray, DeviceMemory
from .io_spec import ProgramIO, program_io
from .program_builder import ProgramBuilder
from .program_call import ProgramCall, check_on_device, fill_outputs
from .program_record import canonical
from .pytree import tree_arrays, tree_replace
from .rank0 import check_same_program, run_on_rank_0
from .tracing import TracedProgram, trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from mimo_v2_flash.parallel import HostGroup

__all__ = ["NeuronBackend"]


class NeuronBackend:
    """The Trainium2 backend, which traces, compiles and loads one program per input signature.

    Every rank traces, while it would only wait otherwise, so that ranks can check that they have
    the same program. Rank 0 compiles it.

    Parameters
    ----------
    group : HostGroup, optional
        Ranks, each a process with a backend; a single rank by default.
    folder : Path
        Compile cache, in a file system that all ranks share.
    lnc : int
        Physical cores per logical core: 2, Trainium2's default, or 1.
    skip_compile : bool
        Refuse programs that are not in the compile cache.

    Raises
    ------
    OSError
        If the runtime does not start, or has fewer cores than ranks.
    ValueError
        If the folder is not a compile cache, or the runtime is configured for other logical cores.
    """

    execution_mode = "static"

    def __init__(
        self,
        group: HostGroup | None = None,
        *,
        folder: Path = COMPILE_CACHE,
        lnc: int = 2,
        skip_compile: bool = False,
    ) -> None:
        claim_core(os.environ, Spike.get_visible_neuron_core_count, lnc=lnc)
        try:
            get_spike_singleton()
        except SpikeRuntimeError as error:
            raise OSError(f"the Neuron runtime does not start: {error}") from error
        self._group, self._memory = group, DeviceMemory()
        self._loaded: dict[Any, _Program] = {}

        def prepare() -> None:
            builder = ProgramBuilder(folder, lnc=lnc)
            self._neff = builder.find if skip_compile else builder.compile

        run_on_rank_0(group, prepare)

    def to_device(self, tree: Any) -> Any:
        """Return `tree` with its arrays copied to this rank's device."""
        arrays = {path: self._memory.upload(array) for path, array in tree_arrays(tree).items()}
        return tree_replace(tree, arrays)

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function` as programs, one per signature of the arguments.

        Inputs may be host arrays, except for buffers that are updated in place, which must be on
        the device. The array parameter `donate` gives its buffer to the first output. Memory of
        the other outputs is reused once they are garbage-collected.
        """

        def program(*args: Any, **kwargs: Any) -> Any:
            call = ProgramCall.of(function, donate, *args, **kwargs)
            if call.key not in self._loaded:
                self._loaded[call.key] = self._load(call)
            return self._loaded[call.key](call.arrays)

        return program

    def _load(self, call: ProgramCall) -> _Program:
        traced = trace(call.function, call.arguments, donate=call.donate)
        check_on_device(traced, call.arrays, DeviceArray)  # before minutes of compilation
        check_same_program(self._group, canonical(traced.module))
        neff = Path(run_on_rank_0(self._group, lambda: self._neff(traced.module)))
        return _Program(traced, self._model(neff), self._memory)

    def _model(self, neff: Path) -> Any:
        ranks: dict[str, Any] = {}
        if self._group and self._group.size > 1:
            ranks = {
                "cc_enabled": True,
                "rank_id": self._group.rank,
                "world_size": self._group.size,
            }
        if not neff.is_file():
            raise FileNotFoundError(f"{neff} does not exist: all ranks must see the compile cache")
        try:
            return SpikeModel.load_from_neff(neff, name=neff.parent.name, **ranks)
        except SpikeRuntimeError as error:
            raise OSError(f"the Neuron runtime does not load {neff}: {error}") from error


class _Program:
    """A program that is loaded into a core's memory."""

    def __init__(self, traced: TracedProgram, model: Any, memory: DeviceMemory) -> None:
        self._traced, self._model, self._memory = traced, model, memory
        self._io: ProgramIO = program_io(traced.module)
        known = {spec.name for spec in self._io.inputs}
        if unknown := set(model.input_tensors_info) - known:
            raise ValueError(
                f"{model.neff_path}: the traced program has no input {', '.join(sorted(unknown))}"
            )

    def __call__(self, arrays: dict[str, Any]) -> Any:
        """Run once; return the function's output, with arrays on the device."""
        check_on_device(self._traced, arrays, DeviceArray)  # a key does not say where arrays are
        inputs = [self._memory.hold(array) for array in arrays.values()]
        outputs = [
            inputs[self._io.in_place[number]]
            if number in self._io.in_place
            else self._memory.allocate(spec.shape, spec.dtype)
            for number, spec in enumerate(self._io.outputs)
        ]
        named_inputs = zip(self._io.inputs, inputs, strict=True)
        named_outputs = zip(self._io.outputs, outputs, strict=True)
        used = self._model.input_tensors_info  # the compiler may drop unused inputs
        try:
            self._model(
                inputs={
                    spec.name: array.handle for spec, array in named_inputs if spec.name in used
                },
                outputs={spec.name: array.handle for spec, array in named_outputs},
            )
        except SpikeRuntimeError as error:
            raise OSError(f"the Neuron runtime does not run {self._model.name}: {error}") from error
        return fill_outputs(self._traced, outputs)
