"""A program as it is kept in files: its bytes, and what is written about it."""

from typing import Any

from .hlo_lint import instruction_count
from .io_spec import TensorSpec, program_io

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
    found = program_io(module)
    return {
        "instructions": instruction_count(module),
        "inputs": list(map(_told, found.inputs)),
        "outputs": list(map(_told, found.outputs)),
        "input_bytes": sum(spec.nbytes for spec in found.inputs),
        "output_bytes": sum(spec.nbytes for spec in found.outputs),
        "in_place": {
            found.outputs[number].name: found.inputs[taken].name
            for number, taken in found.in_place.items()
        },
    }


def _told(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "bytes": spec.nbytes,
    }
