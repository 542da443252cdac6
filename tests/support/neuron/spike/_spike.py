"""A stand-in for the Neuron runtime: device memory is bytes, cores are processes, XLA computes.

It is stricter than the real one where that shows a mistake: in-place outputs must be the buffers of
their inputs, others must not be; inputs that a program does not use are not known to it. Programs
with exchanges run when all ranks are there: rank 0 listens at NEURON_RT_ROOT_COMM_ID.
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

CORES = "STAND_IN_CORES"  # how many the machine has


class SpikeRuntimeError(RuntimeError):
    """What the runtime raises."""


class Tensor:
    """Bytes on a core; what has not been written is not zero."""

    def __init__(self, size: int) -> None:
        self.core_id, self.content = 0, bytearray(b"\xa5" * size)


class Spike:
    """The runtime of a process that has one core."""

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
        if model.exchanges and not cc_enabled:
            raise SpikeRuntimeError("Failed to load model: it has collectives")
        if world_size > 1 and not self.ranks:
            self.ranks = _joined(rank_id, world_size)
            _devices(world_size)  # jax can make no more of them later
        return model

    def get_tensor_info(self, model: Any) -> Any:
        used = (port for port in model.program_io.inputs if port.name in model.used)
        return SimpleNamespace(
            inputs={port.name: _metadata(port) for port in used},
            outputs={port.name: _metadata(port) for port in model.program_io.outputs},
        )

    def execute(
        self, model: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor], **_: Any
    ) -> None:
        _check_buffers(model, inputs, outputs)
        given = [
            np.frombuffer(bytes(inputs[port.name].content), port.dtype).reshape(port.shape)
            if port.name in inputs
            else np.zeros(port.shape, port.dtype)
            for port in model.program_io.inputs
        ]
        for port, array in zip(model.program_io.outputs, self._answers(model, given), strict=True):
            outputs[port.name].content[:] = array.tobytes()

    def _answers(self, model: Any, given: list[np.ndarray]) -> list[np.ndarray]:
        if not model.exchanges:
            return _run(model, [given])[0]
        if model.rank > 0:
            self.ranks[0].send(given)
            return self.ranks[0].recv()
        others = [self.ranks[rank].recv() for rank in range(1, model.size)]
        own, *theirs = _run(model, [given, *others])
        for rank, answer in enumerate(theirs, 1):
            self.ranks[rank].send(answer)
        return own


def _loaded(content: bytes) -> dict[str, Any]:
    from nkipy.third_party.xla.service import hlo_pb2

    from mimo_v2_flash.execution.io_spec import program_io

    module = hlo_pb2.HloModuleProto.FromString(content)
    (entry,) = (c for c in module.computations if c.id == module.entry_computation_id)
    names = {i.id: i.frontend_attributes.map["neff_input_names"] for i in entry.instructions}
    used = {names[operand] for i in entry.instructions for operand in i.operand_ids}
    opcodes = {i.opcode for i in entry.instructions}
    exchanges = {"all-gather", "all-reduce", "all-to-all", "reduce-scatter"} & opcodes
    found = {"module": module, "ports": program_io(module), "used": used, "executable": None}
    return found | {"exchanges": exchanges}


def _metadata(port: Any) -> Any:
    name = "int8" if port.dtype.name.startswith("float8") else port.dtype.name
    return SimpleNamespace(shape=list(port.shape), dtype=name, size=port.nbytes)


def _check_buffers(model: Any, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
    if missing := model.used - {""} - set(inputs):
        raise SpikeRuntimeError(f"missing inputs {sorted(missing)}")
    names = [port.name for port in model.program_io.inputs]
    for number, port in enumerate(model.program_io.outputs):
        own = model.program_io.in_place.get(number)
        shared = {name for name, tensor in inputs.items() if tensor is outputs[port.name]}
        if shared != (set() if own is None else {names[own]}):
            raise SpikeRuntimeError(f"output {port.name} lies where {sorted(shared)} does")
    if len({id(tensor) for tensor in outputs.values()}) < len(outputs):
        raise SpikeRuntimeError("two outputs lie in one place")


def _run(model: Any, given_of: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    import jax

    from mimo_v2_flash.execution.executable import Executable

    devices = _devices(len(given_of))
    model.executable = model.executable or Executable(model.module, devices)
    placed = [
        [jax.device_put(np.array(array), device) for array in given]
        for given, device in zip(given_of, devices, strict=True)
    ]
    return [[np.asarray(array) for array in answers] for answers in model.executable(placed)]


def _devices(count: int) -> list[Any]:
    from mimo_v2_flash.execution.executable import cpu_devices

    return cpu_devices(count)


def _joined(rank: int, size: int) -> dict[int, Connection]:
    """Return the connections to rank 0, or to all others if this is it."""
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
