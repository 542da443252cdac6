"""An HLO lint: finds what Trainium2's compiler refuses or miscompiles in a traced program.

Source: AWS Neuron documentation, compiler error codes EVRF013 (top-k of integers), EVRF029 (sort),
EVRF035 (integer dot), EVRF051 (float8_e4m3fn) and the operators that neuronx-cc supports; nkipy,
`core/backend/hlo.py`, whose all_to_all drops the axis of concatenation.
"""

from collections.abc import Iterator
from typing import Any

from .hlo import array_shapes

__all__ = ["LARGEST_CONSTANT", "instruction_count", "lint_program"]

LARGEST_CONSTANT = 1 << 16
"""Bytes; a larger array should be an input of the program."""

WIDE = {"S64", "U64", "F64", "C64", "C128"}
FOREIGN = {"F8E4M3FN", "F8E4M3FNUZ", "F8E5M2FNUZ", "F8E4M3B11FNUZ"}
FLOATS = {"F32", "BF16", "F16", "F8E4M3", "F8E5M2"}
UNSUPPORTED = {"sort", "while", "conditional", "dynamic-slice", "remainder", "rng", "cholesky"}
COLLECTIVES = {"all-gather", "reduce-scatter", "all-to-all"}
CUSTOM_CALLS = {"AwsNeuronTopK"}


def instruction_count(module: Any) -> int:
    """Return how many instructions an `HloModuleProto` has, in all its computations."""
    return sum(len(computation.instructions) for computation in module.computations)


def lint_program(module: Any, *, most_instructions: int = 1 << 18) -> list[str]:
    """Return the faults of an `HloModuleProto`, each with its instruction.

    Faults are 64-bit types, float8_e4m3fn, sorts and other unsupported operators, unknown custom
    calls, constants above `LARGEST_CONSTANT`, 0-dimensional inputs, empty tensors, integer dots and
    top-k, collectives along another axis than the first, and more than `most_instructions`.
    """
    count = instruction_count(module)
    faults = [f"{count} instructions, more than {most_instructions}"] * (count > most_instructions)
    for computation in module.computations:
        entry = computation.id == module.entry_computation_id
        types = {
            instruction.id: {part.type_name for part in array_shapes(instruction.shape)}
            for instruction in computation.instructions
        }
        for instruction in computation.instructions:
            operands = set().union(*(types[operand] for operand in instruction.operand_ids))
            messages = [
                *_type_faults(types[instruction.id]),
                *_operation_faults(instruction, operands),
                *_size_faults(instruction, entry),
            ]
            where = f"{instruction.name} ({instruction.opcode})"
            faults += [f"{where}: {message}" for message in messages]
    return faults


def _type_faults(types: set[str]) -> Iterator[str]:
    if wide := types & WIDE:
        yield f"64-bit type {', '.join(sorted(wide))}"
    if foreign := types & FOREIGN:
        yield f"{', '.join(sorted(foreign))} is not Trainium2's FP8"


def _operation_faults(instruction: Any, operand_types: set[str]) -> Iterator[str]:
    opcode, target = instruction.opcode, instruction.custom_call_target
    if opcode in UNSUPPORTED:
        yield "unsupported"
    if opcode == "custom-call" and target not in CUSTOM_CALLS:
        yield f"unknown custom call {target}"
    if opcode in {"dot", "custom-call"} and operand_types - FLOATS:
        yield f"operands of type {', '.join(sorted(operand_types - FLOATS))}, expected floats"
    if opcode in COLLECTIVES and list(instruction.dimensions) != [0]:
        yield f"along axes {list(instruction.dimensions)}, expected [0]"


def _size_faults(instruction: Any, entry: bool) -> Iterator[str]:
    if (size := instruction.literal.ByteSize()) > LARGEST_CONSTANT:
        yield f"a constant of {size} bytes"
    if 0 in instruction.shape.dimensions:
        yield "an empty tensor"
    if instruction.opcode == "parameter" and entry and not instruction.shape.dimensions:
        yield "a 0-dimensional input"
