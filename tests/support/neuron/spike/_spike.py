"""A fake Neuron runtime: device memory is bytes, cores are processes, XLA computes.

It is stricter than the real runtime in order to find mistakes: in-place outputs must be the buffers
of their inputs, others must not be; a program does not accept inputs that it does not use. Programs
with collectives run when all ranks have joined: rank 0 listens at NEURON_RT_ROOT_COMM_ID.
"""

import os
import time
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["Spike", "SpikeRuntimeError"]

CORES = "STAND_IN_CORES"  # how many cores the machine has


class SpikeRuntimeError(RuntimeError):
    """An error of the runtime."""


class Tensor:
    """Device memory on a core, initialised to bytes that are not zero."""

    def __init__(self, size: int) -> None:
        self.core_id, self.content = 0, bytearray(b"\xa5" * size)


class Spike:
    """The runtime of a process with one core."""

    def __init__(self) -> None:
        (self.core,) = os.environ["NEURON_RT_VISIBLE_CORES"].split(",")
        if int(self.core) >= int(os.environ.get(CORES, "64")):
            raise SpikeRuntimeError("Failed to initialize NRT runtime")
        self.ranks: dict[int, Connection] = {}

    @staticmethod
    def get_visible_neuron_core_count() -> int:
        return int(os.environ.get(CORES, "64"))

    def allocate_tensor(self, size: int, core_id: int = 0, name: str | None = None) -> Tensor:
        return Tensor(size)

    def tensor_write_from_pybuffer(self, tensor: Tensor, array: np.ndarray) -> None:
        tensor.content[:] = array.tobytes()

    def tensor_read_to_pybuffer(self, tensor: Tensor, array: np.ndarray) -> None:
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(tensor.content, np.uint8)

    def load_model(
        self, path: str, core_id: int, cc_enabled: bool, rank_id: int, world_size: int
    ) -> Any:
        content = Path(path).read_bytes()
        if not content.startswith(b"NEFF"):
            raise SpikeRuntimeError("Failed to load model: NRT_UNSUPPORTED_NEFF_VERSION")
        model = SimpleNamespace(core_id=0, rank=rank_id, size=world_size, **_loaded(content[4:]))
        if model.collectives and not cc_enabled:
            raise SpikeRuntimeError("Failed to load model: it has collectives")
        if world_size > 1 and not self.ranks:
            self.ranks = _join(rank_id, world_size)
            _devices(world_size)  # jax cannot add devices later
        return model

    def get_tensor_info(self, model: Any) -> Any:
        used = (spec for spec in model.program_io.inputs if spec.name in model.used)
        return SimpleNamespace(
            inputs={spec.name: _metadata(spec) for spec in used},
            outputs={spec.name: _metadata(spec) for spec in model.program_io.outputs},
        )

    def execute(
        self, model: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor], **_: Any
    ) -> None:
        _check_buffers(model, inputs, outputs)
        arrays = [
            np.frombuffer(bytes(inputs[spec.name].content), spec.dtype).reshape(spec.shape)
            if spec.name in inputs
            else np.zeros(spec.shape, spec.dtype)
            for spec in model.program_io.inputs
        ]
        results = self._run_on_all_ranks(model, arrays)
        for spec, array in zip(model.program_io.outputs, results, strict=True):
            outputs[spec.name].content[:] = array.tobytes()

    def _run_on_all_ranks(self, model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if not model.collectives:
            return _run(model, [arrays])[0]
        if model.rank > 0:
            self.ranks[0].send(arrays)
            return self.ranks[0].recv()
        others = [self.ranks[rank].recv() for rank in range(1, model.size)]
        outputs, *outputs_of_others = _run(model, [arrays, *others])
        for rank, other in enumerate(outputs_of_others, 1):
            self.ranks[rank].send(other)
        return outputs


def _loaded(content: bytes) -> dict[str, Any]:
    from nkipy.third_party.xla.service import hlo_pb2

    from mimo_v2_flash.execution.io_spec import program_io

    module = hlo_pb2.HloModuleProto.FromString(content)
    (entry,) = (c for c in module.computations if c.id == module.entry_computation_id)
    names = {i.id: i.frontend_attributes.map["neff_input_names"] for i in entry.instructions}
    used = {names[operand] for i in entry.instructions for operand in i.operand_ids}
    opcodes = {i.opcode for i in entry.instructions}
    collectives = {"all-gather", "all-reduce", "all-to-all", "reduce-scatter"} & opcodes
    return {
        "module": module,
        "program_io": program_io(module),
        "used": used,
        "executable": None,
        "collectives": collectives,
    }


def _metadata(spec: Any) -> Any:
    name = "int8" if spec.dtype.name.startswith("float8") else spec.dtype.name
    return SimpleNamespace(shape=list(spec.shape), dtype=name, size=spec.nbytes)


def _check_buffers(model: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    if missing := model.used - {""} - set(inputs):
        raise SpikeRuntimeError(f"missing inputs {sorted(missing)}")
    names = [spec.name for spec in model.program_io.inputs]
    for number, spec in enumerate(model.program_io.outputs):
        index = model.program_io.in_place.get(number)
        shared = {name for name, tensor in inputs.items() if tensor is outputs[spec.name]}
        if shared != (set() if index is None else {names[index]}):
            raise SpikeRuntimeError(f"output {spec.name} shares the buffer of {sorted(shared)}")
    if len({id(tensor) for tensor in outputs.values()}) < len(outputs):
        raise SpikeRuntimeError("two outputs share a buffer")


def _run(model: Any, arrays_of_rank: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    import jax

    from mimo_v2_flash.execution.executable import Executable

    devices = _devices(len(arrays_of_rank))
    model.executable = model.executable or Executable(model.module, devices)
    placed = [
        [jax.device_put(np.array(array), device) for array in arrays]
        for arrays, device in zip(arrays_of_rank, devices, strict=True)
    ]
    return [[np.asarray(array) for array in outputs] for outputs in model.executable(placed)]


def _devices(count: int) -> list[Any]:
    from mimo_v2_flash.execution.executable import cpu_devices

    return cpu_devices(count)


def _join(rank: int, size: int) -> dict[int, Connection]:
    """Return the connections to rank 0, or on rank 0 to all other ranks."""
    host, port = os.environ["NEURON_RT_ROOT_COMM_ID"].split(":")
    if rank == 0:
        listener = Listener((host, int(port)))
        arrived = [listener.accept() for _ in range(size - 1)]
        return {connection.recv(): connection for connection in arrived}
    connection = None
    while connection is None:
        with suppress(ConnectionRefusedError):
            connection = Client((host, int(port)))
        time.sleep(0.05)
    connection.send(rank)
    return {0: connection}
