"""Canonical bytes of a program are reproducible and identify it; its JSON record is complete."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from mimo_v2_flash.kernels import ops
from tests.support.processes import ROOT

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
pytestmark = pytest.mark.nkipy

ARGUMENTS = {"x": np.ones((4, 8), np.float32), "w": np.ones((16, 8), np.float32)}
PROGRAM = "from tests.execution.test_program_record import digest, program; print(digest(program))"


def program(x, w):
    value, index = ops.top_k(ops.matmul(x, w), k=3)
    return np.sum(np.exp(value), axis=1), np.max(value, axis=1), index.astype(np.int32)


def moved(x, w):

    value, index = ops.top_k(ops.matmul(x, w), k=3)
    return np.sum(np.exp(value), axis=1), np.max(value, axis=1), index.astype(np.int32)


def other(x, w):
    value, index = ops.top_k(ops.matmul(x, w), k=4)
    return np.sum(np.exp(value), axis=1), np.max(value, axis=1), index.astype(np.int32)


moved.__name__ = other.__name__ = "program"


def traced(function):
    from mimo_v2_flash.execution.tracing import trace

    return trace(function, ARGUMENTS).module


def digest(function) -> str:
    from mimo_v2_flash.execution.program_record import canonical

    return hashlib.sha256(canonical(traced(function))).hexdigest()


def test_another_process_has_the_same_bytes():
    env = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    assert done.stdout.split()[-1] == digest(program)


def test_lines_of_the_source_do_not_matter_and_everything_else_does():
    whole = traced(program).SerializeToString(deterministic=True)
    assert whole != traced(moved).SerializeToString(deterministic=True)
    assert digest(program) == digest(moved)
    assert digest(program) != digest(other)


def test_the_module_itself_is_left_as_it_was():
    from mimo_v2_flash.execution.program_record import canonical

    module = traced(program)
    before = module.SerializeToString(deterministic=True)
    assert len(canonical(module)) < len(before)
    assert module.SerializeToString(deterministic=True) == before


def test_a_record_says_what_goes_in_and_out():
    from mimo_v2_flash.execution.program_record import program_record

    record = program_record(traced(program))
    assert record["inputs"][1] == {"name": "w", "shape": [16, 8], "dtype": "float32", "bytes": 512}
    assert [spec["name"] for spec in record["outputs"]] == ["output0", "output1", "output2"]
    assert (record["input_bytes"], record["output_bytes"]) == (640, 80)
    assert record["instructions"] > 10
    assert record["in_place"] == {}
