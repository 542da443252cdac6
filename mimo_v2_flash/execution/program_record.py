"""A program as it is kept in files: its bytes, and what is written about it."""

from typing import Any

from .hlo_lint import instructions
from .io_spec import Port, ports

__all__ = ["canonical", "program_record"]


def canonical(module: Any) -> bytes:
    """Return an `HloModuleProto` as bytes, without the lines of the source that it came from.

    They are the same on every machine and after every edit that leaves the program as it was.
    """
    copy = type(module).FromString(module.SerializeToString())
    for computation in copy.computations:
        for instruction in computation.instructions:
            instruction.metadata.ClearField("source_file")
            instruction.metadata.ClearField("source_line")
    content: bytes = copy.SerializeToString(deterministic=True)
    return content


def program_record(module: Any) -> dict[str, Any]:
    """Return what JSON can say of a program: inputs, outputs, what is changed in place, sizes."""
    found = ports(module)
    return {
        "instructions": instructions(module),
        "inputs": list(map(_told, found.inputs)),
        "outputs": list(map(_told, found.outputs)),
        "input_bytes": sum(port.nbytes for port in found.inputs),
        "output_bytes": sum(port.nbytes for port in found.outputs),
        "in_place": {
            found.outputs[number].name: found.inputs[taken].name
            for number, taken in found.in_place.items()
        },
    }


def _told(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "shape": list(port.shape),
        "dtype": port.dtype.name,
        "bytes": port.nbytes,
    }
