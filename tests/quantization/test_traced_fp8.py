"""Tests of the traced product of FP8 blocks: few dots, none of which has a scaled weight."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.quantization.fp8 import BlockScaled

pytest.importorskip("nkipy")
pytestmark = pytest.mark.nkipy


def dots(rows: int, outputs: int, inputs: int) -> list[tuple[int, ...]]:
    """Return the shapes of the dots of a traced product."""
    from mimo_v2_flash.quantization.traced_fp8 import scaled_dot

    def program(x_NI, code_OI, scale_YX):
        return scaled_dot(x_NI, BlockScaled(code_OI, scale_YX, 64))

    trace = pytest.importorskip("nkipy.core.trace")
    module = trace.NKIPyKernel.trace(program).specialize(
        np.ones((rows, inputs), ml_dtypes.bfloat16),
        np.ones((outputs, inputs), ml_dtypes.float8_e4m3),
        np.ones((-(-outputs // 64), -(-inputs // 128)), np.float32),
    )
    output, *_ = module.outputs
    assert (tuple(output.shape), np.dtype(output.dtype)) == ((rows, outputs), np.float32)
    instructions = [i for c in module.to_proto().computations for i in c.instructions]
    return [tuple(i.shape.dimensions) for i in instructions if i.opcode == "dot"]


def test_whole_columns_of_blocks_are_one_dot_and_the_rest_another():
    assert sorted(dots(2, 130, 300)) == [(1, 2, 130), (2, 2, 130)]


def test_a_dot_is_as_large_as_its_result_may_be():
    assert dots(1024, 2048, 256) == [(1, 1024, 2048)] * 2
