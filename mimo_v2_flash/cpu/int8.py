"""Compiled loops of INT8: 128 codes of a byte that share a float32 scale.

Source: `quantization/int8.py` is the plain statement.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import BlockFormat, load, offset
from .loops import in_order
from .matmul import CompiledWeight
from .tile import LANES, SUMS, WORD, WORDS, spread

__all__ = ["compiled", "int8_packer", "int8_rows"]

COLUMNS = 128
BYTES, FLOAT = ir.VectorType(ir.IntType(8), LANES), ir.FloatType()


def _decode(build: Any, block: Any, scale: Any) -> Any:
    factor = spread(build, load(build, scale, FLOAT))
    for column in range(0, COLUMNS, LANES):
        codes = load(build, offset(build, block, column), BYTES)
        yield build.fmul(build.sitofp(build.sext(codes, WORDS), SUMS), factor)


INT8 = BlockFormat(COLUMNS, COLUMNS, _decode, WORD)
_rows, _pack = block_rows(INT8), block_packer(INT8)


@in_order
def int8_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def int8_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of codes into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


LOOPS = BlockLoops.of(INT8, int8_rows, int8_packer)


def compiled(code_OI: np.ndarray, scale_OG: np.ndarray) -> CompiledWeight | None:
    """Return codes as the loops read them; a row's only scale is repeated for its groups."""
    if code_OI.shape[1] % COLUMNS:
        return None
    groups = code_OI.shape[1] // COLUMNS
    if scale_OG.shape[1] < groups:
        scale_OG = np.repeat(scale_OG, groups, axis=1)
    return compiled_blocks(LOOPS, code_OI, scale_OG)
