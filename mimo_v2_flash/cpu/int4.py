"""Compiled loops of INT4: 128 codes of four bits that share a float32 scale.

Source: `quantization/int4.py` is the plain statement.
"""

from functools import partial
from typing import Any

from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import BlockFormat, load, nibble_values, offset
from .loops import in_order
from .tile import LANES, SUMS, WORD, WORDS, splat, spread

__all__ = ["compiled", "int4_packer", "int4_rows"]

COLUMNS, SIZE, RUN = 128, 64, 16  # RUN: bytes, whose lower nibbles are columns before the upper
NUMBERS = [*range(8), *range(-8, 0)]
FLOAT, BYTES = ir.FloatType(), ir.VectorType(ir.IntType(8), LANES)


def _decode(build: Any, block: Any, scale: Any) -> Any:
    factor = spread(build, load(build, scale, FLOAT))
    values = nibble_values(build, NUMBERS, _decode_nibbles, factor)
    for run in range(0, SIZE, RUN):
        places = (offset(build, block, run + byte) for byte in range(0, RUN, LANES))
        words = [build.zext(load(build, place, BYTES), WORDS) for place in places]
        for shift in (0, 4):
            for word in words:
                yield values(word, shift)


def _decode_nibbles(build: Any, nibbles: Any) -> Any:
    signed = build.sub(build.xor(nibbles, splat(WORDS, 8)), splat(WORDS, 8))
    return build.sitofp(signed, SUMS)


INT4 = BlockFormat(COLUMNS, SIZE, _decode, WORD)
_rows, _pack = block_rows(INT4), block_packer(INT4)


@in_order
def int4_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def int4_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of codes into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


compiled = partial(compiled_blocks, BlockLoops.of(INT4, int4_rows, int4_packer))
