"""Compiled loops of MXFP4: 32 codes of four bits, E2M1, and a power of two of a byte.

Source: `quantization/mxfp4.py` is the plain statement.
"""

from functools import partial
from typing import Any

from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import BlockFormat, load, load_nibbles, nibble_values, offset
from .loops import in_order
from .tile import LANES, SUMS, WORDS, splat, spread

__all__ = ["compiled", "mxfp4_packer", "mxfp4_rows"]

COLUMNS, SIZE = 32, 16
NUMBERS = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
INT8, INT32, FLOAT = ir.IntType(8), ir.IntType(32), ir.FloatType()
SMALLEST, HALF_EXPONENT = 1 << 22, 126 << 23  # bits of 2^-127, which is a scale of 0, and of 1/2


def _decode(build: Any, block: Any, scale: Any) -> Any:
    bits = build.shl(build.zext(load(build, scale, INT8), INT32), INT32(23))
    is_zero = build.icmp_unsigned("==", bits, INT32(0))
    factor = spread(build, build.bitcast(build.select(is_zero, INT32(SMALLEST), bits), FLOAT))
    table = [*NUMBERS, *(-number for number in NUMBERS)]
    values = nibble_values(build, table, _decode_nibbles, factor)
    for column in range(0, COLUMNS, LANES):
        yield values(load_nibbles(build, offset(build, block, column // 2)), 0)


def _decode_nibbles(build: Any, nibbles: Any) -> Any:
    """Return E2M1: of what is subnormal t stands for 2 t - 1, and 2 t - 1 < t, as in `fp8`."""
    magnitude = build.shl(build.and_(nibbles, splat(WORDS, 7)), splat(WORDS, 22))
    t = build.bitcast(build.add(magnitude, splat(WORDS, HALF_EXPONENT)), SUMS)
    doubled = build.fsub(build.fadd(t, t), splat(SUMS, 1.0))
    value = build.select(build.fcmp_ordered("<", t, doubled), t, doubled)
    sign = build.shl(build.and_(nibbles, splat(WORDS, 8)), splat(WORDS, 28))
    return build.bitcast(build.or_(build.bitcast(value, WORDS), sign), SUMS)


MXFP4 = BlockFormat(COLUMNS, SIZE, _decode, 1)
_rows, _pack = block_rows(MXFP4), block_packer(MXFP4)


@in_order
def mxfp4_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def mxfp4_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of codes into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


compiled = partial(compiled_blocks, BlockLoops.of(MXFP4, mxfp4_rows, mxfp4_packer))
