"""The serialized form of a program: canonical bytes and a JSON record."""

from typing import Any

from .hlo_lint import instruction_count
from .io_spec import TensorSpec, program_io

__all__ = ["canonical", "program_record"]


def canonical(module: Any) -> bytes:
    """Return the canonical bytes of an `HloModuleProto`, without source files and lines.

    The bytes are the same on every machine, and after any edit that leaves the program unchanged.
    """
    copy = type(module).FromString(module.SerializeToString())
    for computation in copy.computations:
        for instruction in computation.instructions:
            instruction.metadata.ClearField("source_file")
            instruction.metadata.ClearField("source_line")
    content: bytes = copy.SerializeToString(deterministic=True)
    return content


def program_record(module: Any) -> dict[str, Any]:
    """Return the JSON record of a program: inputs, outputs, aliases and sizes."""
    io = program_io(module)
    return {
        "instructions": instruction_count(module),
        "inputs": list(map(_spec_record, io.inputs)),
        "outputs": list(map(_spec_record, io.outputs)),
        "input_bytes": sum(spec.nbytes for spec in io.inputs),
        "output_bytes": sum(spec.nbytes for spec in io.outputs),
        "in_place": {
            io.outputs[output].name: io.inputs[aliased].name
            for output, aliased in io.in_place.items()
        },
    }


def _spec_record(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "bytes": spec.nbytes,
    }
