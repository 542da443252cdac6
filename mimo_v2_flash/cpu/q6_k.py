"""Compiled loops of ggml's Q6_K: 256 codes of six bits, 16 scales of a byte, a float16 scale.

Source: ggml, `block_q6_K` of `ggml-common.h`, `dequantize_row_q6_K`.
"""

from functools import partial
from typing import Any

from llvmlite import ir

from .block_loops import BlockLoops, block_packer, block_rows, compiled_blocks
from .block_tile import (
    CODES,
    BlockFormat,
    broadcasts,
    floats_of_bytes,
    load,
    load_half,
    load_twice,
    offset,
    shifted,
)
from .loops import in_order
from .tile import LANES, splat, spread

__all__ = ["compiled", "q6_k_packer", "q6_k_rows"]

COLUMNS, SIZE = 256, 210
UPPER, SCALES, FACTOR = 128, 192, 208  # where upper bits, scales, and the factor of all are
GROUP, HALF, RUNS = 16, 128, 64  # columns of a scale, of half a block, and decoded at a time
SCALE_BYTES = ir.VectorType(ir.IntType(8), COLUMNS // GROUP)
OFFSET = 32
SHIFTS = (-4, -2), (0, 2)  # of upper bits, to the right


def _decode(build: Any, block: Any, _: Any) -> Any:
    factor = spread(build, load_half(build, offset(build, block, FACTOR)))
    scale_bytes = load(build, offset(build, block, SCALES), SCALE_BYTES)
    scales = broadcasts(
        build, [build.fmul(value, factor) for value in floats_of_bytes(build, scale_bytes)]
    )
    for half in range(2):
        lower = load(build, offset(build, block, half * RUNS), CODES)
        upper = load_twice(build, offset(build, block, UPPER + half * RUNS // 2))
        for nibble, shifts in enumerate(SHIFTS):
            nibbles = shifted(build, lower, (4 * nibble, 4 * nibble), 0x0F)
            code = build.or_(nibbles, shifted(build, upper, shifts, 0x30))
            code = build.sub(code, splat(CODES, OFFSET))
            start = half * HALF + nibble * RUNS
            for v, value in enumerate(floats_of_bytes(build, code)):
                yield build.fmul(value, scales((start + v * LANES) // GROUP))


Q6_K = BlockFormat(COLUMNS, SIZE, _decode)
_rows, _pack = block_rows(Q6_K), block_packer(Q6_K)


@in_order
def q6_k_rows(x, N, inputs, code, scale, y, outputs, start, end):
    """Fill columns `start` to `end` of a product, as `block_loops.block_rows` says."""
    _rows(x, N, inputs, code, scale, y, outputs, start, end)


@in_order
def q6_k_packer(code, scale, _, outputs, inputs, o, start, stop, target):
    """Pack rows of blocks into float32 panels, as `CompiledWeight.packer` says."""
    _pack(code, scale, _, outputs, inputs, o, start, stop, target)


compiled = partial(compiled_blocks, BlockLoops.of(Q6_K, q6_k_rows, q6_k_packer))
