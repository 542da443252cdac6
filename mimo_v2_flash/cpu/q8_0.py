"""Compiled loops of ggml's Q8_0: a float16 scale and 32 codes of a byte, 34 bytes.

Source: ggml, `block_q8_0` of `ggml-common.h`.
"""

from functools import partial
from typing import Any

from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import BlockFormat, load, load_half, offset
from .loops import in_order
from .tile import LANES, SUMS, WORDS, spread

__all__ = ["compiled", "q8_0_packer", "q8_0_rows"]

COLUMNS, SCALE = 32, 2  # SCALE: bytes
CODES = ir.VectorType(ir.IntType(8), LANES)


def _decode(build: Any, block: Any, _: Any) -> Any:
    scale = spread(build, load_half(build, block))
    for column in range(0, COLUMNS, LANES):
        codes = load(build, offset(build, block, SCALE + column), CODES)
        yield build.fmul(build.sitofp(build.sext(codes, WORDS), SUMS), scale)


Q8_0 = BlockFormat(COLUMNS, SCALE + COLUMNS, _decode)
_rows, _pack = block_rows(Q8_0), block_packer(Q8_0)


@in_order
def q8_0_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def q8_0_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of blocks into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


LOOPS = BlockLoops.of(Q8_0, q8_0_rows, q8_0_packer)
compiled = partial(compiled_blocks, LOOPS)
