"""Compiled loops of ggml's Q4_K: 256 codes of four bits, 8 scales and minima of six, two float16.

Source: ggml, `block_q4_K` of `ggml-common.h`, `dequantize_row_q4_K`.
"""

from functools import partial
from typing import Any

from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import (
    BlockFormat,
    broadcasts,
    bytes_of,
    floats_of_bytes,
    load,
    load_half,
    nibble_values,
    offset,
)
from .loops import in_order
from .tile import LANES, SUMS, WORDS, select_lanes, spread

__all__ = ["compiled", "q4_k_packer", "q4_k_rows"]

COLUMNS, SIZE = 256, 144
MIN_FACTOR, SCALES, CODES = 2, 4, 16  # where the factor of minima, scales, and codes are
GROUPS, GROUP = 8, 32  # GROUP: columns of a scale
INT32, INT64 = (ir.IntType(bits) for bits in (32, 64))
BYTES = ir.VectorType(ir.IntType(8), LANES)
QUARTER = 4  # of the scales, which are stored as four scales, four minima, and the same again


def _decode(build: Any, block: Any, _: Any) -> Any:
    numbers = broadcasts(build, _scales(build, block))
    for group in range(GROUPS):
        first = group // QUARTER * 2 * QUARTER + group % QUARTER
        scale, minimum = numbers(first), numbers(first + QUARTER)
        values = nibble_values(build, range(16), _decode_nibbles, scale, minimum)
        for column in range(0, GROUP, LANES):
            place = CODES + group // 2 * GROUP + column
            words = build.zext(load(build, offset(build, block, place), BYTES), WORDS)
            yield values(words, group % 2 * 4)


def _decode_nibbles(build: Any, nibbles: Any) -> Any:
    return build.sitofp(nibbles, SUMS)


def _scales(build: Any, block: Any) -> list[Any]:
    """Return scales and minima, times their factors: the upper four of each share their bytes."""

    def masked(number: Any, byte: int) -> Any:
        return build.and_(number, INT64(int.from_bytes(bytes([byte] * 8), "little")))

    lower = load(build, offset(build, block, SCALES), INT64)
    both = build.zext(load(build, offset(build, block, SCALES + 8), INT32), INT64)
    nibbles = masked(build.or_(both, build.shl(both, INT64(28))), 0x0F)
    upper = build.or_(nibbles, masked(build.lshr(lower, INT64(2)), 0x30))
    values = floats_of_bytes(build, bytes_of(build, masked(lower, 0x3F), upper))
    scale, minimum = (
        spread(build, load_half(build, offset(build, block, at))) for at in (0, MIN_FACTOR)
    )
    lanes = [lane + lane // QUARTER % 2 * LANES for lane in range(LANES)]
    factors = select_lanes(build, scale, minimum, lanes)
    return [build.fmul(value, factors) for value in values]


Q4_K = BlockFormat(COLUMNS, SIZE, _decode)
_rows, _pack = block_rows(Q4_K), block_packer(Q4_K)


@in_order
def q4_k_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def q4_k_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of blocks into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


compiled = partial(compiled_blocks, BlockLoops.of(Q4_K, q4_k_rows, q4_k_packer))
