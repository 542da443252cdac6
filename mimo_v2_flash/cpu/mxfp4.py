"""Compiled loops of MXFP4: 128 codes of four bits, E2M1, and four powers of two of a byte.

Source: `quantization/mxfp4.py` is the plain statement.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import BlockFormat, broadcasts, load, load_nibbles, nibble_values, offset
from .loops import in_order
from .matmul import CompiledWeight
from .tile import LANES, SUMS, WORDS, splat

__all__ = ["compiled", "mxfp4_packer", "mxfp4_rows"]

COLUMNS, SIZE, GROUPS = 128, 64, 4  # GROUPS: of 32 columns, each with a scale
NUMBERS = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
WORD4, BYTE4 = (ir.VectorType(ir.IntType(bits), GROUPS) for bits in (32, 8))
FLOAT4 = ir.VectorType(ir.FloatType(), GROUPS)
SMALLEST, HALF_EXPONENT = 1 << 22, 126 << 23  # bits of 2^-127, which is a scale of 0, and of 1/2


def _decode(build: Any, block: Any, scale: Any) -> Any:
    bits = build.shl(build.zext(load(build, scale, BYTE4), WORD4), splat(WORD4, 23))
    is_zero = build.icmp_unsigned("==", bits, splat(WORD4, 0))
    bits = build.select(is_zero, splat(WORD4, SMALLEST), bits)
    factors = broadcasts(build, [build.bitcast(bits, FLOAT4)])
    table = [*NUMBERS, *(-number for number in NUMBERS)]
    for group in range(GROUPS):
        values = nibble_values(build, table, _decode_nibbles, factors(group))
        for column in range(0, COLUMNS // GROUPS, LANES):
            place = (group * COLUMNS // GROUPS + column) // 2
            yield values(load_nibbles(build, offset(build, block, place)), 0)


def _decode_nibbles(build: Any, nibbles: Any) -> Any:
    """Return E2M1: of what is subnormal t stands for 2 t - 1, and 2 t - 1 < t, as in `fp8`."""
    magnitude = build.shl(build.and_(nibbles, splat(WORDS, 7)), splat(WORDS, 22))
    t = build.bitcast(build.add(magnitude, splat(WORDS, HALF_EXPONENT)), SUMS)
    doubled = build.fsub(build.fadd(t, t), splat(SUMS, 1.0))
    value = build.select(build.fcmp_ordered("<", t, doubled), t, doubled)
    sign = build.shl(build.and_(nibbles, splat(WORDS, 8)), splat(WORDS, 28))
    return build.bitcast(build.or_(build.bitcast(value, WORDS), sign), SUMS)


MXFP4 = BlockFormat(COLUMNS, SIZE, _decode, GROUPS)
_rows, _pack = block_rows(MXFP4), block_packer(MXFP4)


@in_order
def mxfp4_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def mxfp4_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of codes into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


LOOPS = BlockLoops.of(MXFP4, mxfp4_rows, mxfp4_packer)


def compiled(code: np.ndarray, scale: np.ndarray) -> CompiledWeight | None:
    """Return codes as the loops read them, or None if a row is no multiple of 128 columns."""
    return None if code.shape[1] % SIZE else compiled_blocks(LOOPS, code, scale)
