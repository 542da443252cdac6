"""Compiled loops of ggml's Q3_K: 256 codes of three bits, 16 scales of six, a float16 scale.

Source: ggml, `block_q3_K` of `ggml-common.h`, `dequantize_row_q3_K`.
"""

from functools import partial
from typing import Any

from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import (
    CODES,
    BlockFormat,
    broadcasts,
    bytes_of,
    floats_of_bytes,
    load,
    load_half,
    load_twice,
    offset,
    shifted,
)
from .loops import in_order
from .tile import LANES, splat, spread

__all__ = ["compiled", "q3_k_packer", "q3_k_rows"]

COLUMNS, SIZE = 256, 110
LOWER, SCALES, FACTOR = 32, 96, 108  # where lower bits, scales, and the factor of all are
GROUP, RUNS = 16, 64  # columns of a scale, and decoded at a time
INT32, INT64 = (ir.IntType(bits) for bits in (32, 64))
SCALE_OFFSET, CODE_OFFSET = 32, 4
NIBBLES, BITS = 0x0F0F0F0F0F0F0F0F, 0x3030303030303030


def _decode(build: Any, block: Any, _: Any) -> Any:
    factor = spread(build, load_half(build, offset(build, block, FACTOR)))
    scales = broadcasts(
        build,
        [build.fmul(value, factor) for value in floats_of_bytes(build, _scales(build, block))],
    )
    upper = load_twice(build, block)
    for pair in range(COLUMNS // RUNS):
        half, first = pair // 2, 2 * pair
        lower = load_twice(build, offset(build, block, LOWER + half * RUNS // 2))
        shift = pair % 2 * 4
        code = build.or_(
            shifted(build, lower, (shift, shift + 2), 0x03),
            shifted(build, upper, (first - 2, first - 1), 0x04),
        )
        code = build.sub(code, splat(CODES, CODE_OFFSET))
        for v, value in enumerate(floats_of_bytes(build, code)):
            yield build.fmul(value, scales((pair * RUNS + v * LANES) // GROUP))


def _scales(build: Any, block: Any) -> Any:
    """Return the 16 scales: four bits of each lie in eight bytes, two in four more."""

    def masked(number: Any, mask: int) -> Any:
        return build.and_(number, INT64(mask))

    lower = load(build, offset(build, block, SCALES), INT64)
    upper = build.zext(load(build, offset(build, block, SCALES + 8), INT32), INT64)
    to_left = build.or_(build.shl(upper, INT64(4)), build.shl(upper, INT64(34)))
    to_right = build.or_(upper, build.shl(upper, INT64(30)))
    first = build.or_(masked(lower, NIBBLES), masked(to_left, BITS))
    second = build.or_(masked(build.lshr(lower, INT64(4)), NIBBLES), masked(to_right, BITS))
    codes = bytes_of(build, first, second)
    return build.sub(codes, splat(codes.type, SCALE_OFFSET))


Q3_K = BlockFormat(COLUMNS, SIZE, _decode)
_rows, _pack = block_rows(Q3_K), block_packer(Q3_K)


@in_order
def q3_k_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def q3_k_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of blocks into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


compiled = partial(compiled_blocks, BlockLoops.of(Q3_K, q3_k_rows, q3_k_packer))
