"""The HLO lint finds each fault that Trainium2's compiler refuses, and names the instruction."""

import re

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.execution.hlo_lint import LARGEST_CONSTANT, instruction_count, lint_program

trace = pytest.importorskip("nkipy.core.trace", reason="nkipy is not installed (README)")
collectives = pytest.importorskip("nkipy.distributed.collectives")
pytestmark = pytest.mark.nkipy

X = np.ones((4, 8), np.float32)
FLOATS = LARGEST_CONSTANT // 4 + 8
INDEX = np.arange(4, dtype=np.int32)


def module_of(function, *arguments):
    return trace.NKIPyKernel.trace(function).specialize(*arguments).to_proto()


def clean(x):
    return np.exp(x) * np.float32(2)


def wide(x):
    return x + np.arange(4)


def foreign(x):
    return x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def large(x):
    return x + np.arange(FLOATS, dtype=np.float32)


def integer_dot(x):
    return np.matmul(x, x)


def along_axis_1(x):
    return collectives.all_to_all(x, 1, 1, [[0, 1]])


def empty(x):
    return np.concatenate([x, x[:0]], axis=0)


FAULTS = {
    "64-bit": (wide, INDEX, "64-bit type S64"),
    "e4m3fn": (foreign, X, "F8E4M3FN is not Trainium2's FP8"),
    "constant": (
        large,
        np.ones(FLOATS, np.float32),
        r"a constant of 65\d+ bytes",
    ),
    "0-d": (clean, np.array(1, np.float32), "a 0-dimensional input"),
    "integer dot": (
        integer_dot,
        np.ones((4, 4), np.int32),
        "operands of type S32, expected floats",
    ),
    "axis": (along_axis_1, X, r"along axes \[1\], expected \[0\]"),
    "empty": (empty, X, "an empty tensor"),
}


def test_a_clean_program_has_no_fault():
    module = module_of(clean, X)
    assert lint_program(module) == []
    assert (
        instruction_count(module) == sum(len(part.instructions) for part in module.computations) > 2
    )


@pytest.mark.parametrize(("function", "argument", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_named(function, argument, message):
    (first, *_) = lint_program(module_of(function, argument))
    assert re.search(rf"^\S+ \([a-z-]+\): {message}$", first), first


@pytest.mark.parametrize("opcode", ["sort", "while", "dynamic-slice"])
def test_unsupported_operators_are_found(opcode):
    module = module_of(clean, X)
    module.computations[-1].instructions[1].opcode = opcode
    assert any(fault.endswith(f"({opcode}): unsupported") for fault in lint_program(module))


def test_an_unknown_custom_call_is_found():
    module = module_of(clean, X)
    instruction = module.computations[-1].instructions[1]
    instruction.opcode, instruction.custom_call_target = "custom-call", "Mystery"
    assert any(fault.endswith("unknown custom call Mystery") for fault in lint_program(module))


def test_a_program_may_be_too_long():
    module = module_of(clean, X)
    count = instruction_count(module)
    assert lint_program(module, most_instructions=count) == []
    expected = [f"{count} instructions, more than {count - 1}"]
    assert lint_program(module, most_instructions=count - 1) == expected
