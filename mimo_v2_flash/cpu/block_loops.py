"""Loops of weights whose scales lie inside the sum, made with a decoder of their blocks.

A format says a `BlockFormat`; its module has the two functions that numba compiles for it, one for
few rows of x and one that packs rows for many, and `BlockLoops` of them.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import int64

from .block_tile import BlockFormat, block_tile, store_block, store_square
from .code_cache import compile_now
from .loading import compiled_module
from .loops import inlined
from .matmul import CompiledWeight, is_contiguous
from .panel import BLOCK, FLOAT32_PANEL, PANEL, PanelKind
from .panel_product import PACKER_TYPES, fill_ones, function_address
from .tile import COLUMNS, LANES, WORD

__all__ = ["BlockLoops", "block_packer", "block_rows", "compiled_blocks"]

ROWS_TYPES = (int64,) * 9  # of `block_rows`
ROWS = 4  # of x, of which a block is decoded once


def block_rows(form: BlockFormat) -> Any:
    """Return the loop that fills columns `start` to `end` of a product of few rows of x.

    Its arguments are (x, N, inputs, code, scale, y, outputs, start, end), all integers: x, y, the
    weight and the scales that are stored elsewhere are addresses.
    """
    columns, size, scale_size = form.columns, form.size, form.scale_size
    one, two, four = (block_tile(form, rows) for rows in (1, 2, ROWS))

    @inlined
    def rows(x, N, inputs, code, scale, y, outputs, start, end):
        blocks, x_pitch, y_pitch = inputs // columns, inputs * WORD, outputs * WORD
        pitch, scale_pitch = blocks * size, blocks * scale_size
        for o in range(start, end, COLUMNS):
            w, s, last = code + o * pitch, scale + o * scale_pitch, end - 1 - o
            for n in range(0, N, ROWS):
                x_n, y_n, last_x = x + n * x_pitch, y + n * y_pitch + o * WORD, N - 1 - n
                if last_x == 0:
                    one(y_n, y_pitch, x_n, x_pitch, 0, w, pitch, s, scale_pitch, last, blocks)
                elif last_x == 1:
                    two(y_n, y_pitch, x_n, x_pitch, 1, w, pitch, s, scale_pitch, last, blocks)
                else:
                    four(y_n, y_pitch, x_n, x_pitch, last_x, w, pitch, s, scale_pitch, last, blocks)

    return rows


def block_packer(form: BlockFormat, kind: PanelKind = FLOAT32_PANEL) -> Any:
    """Return the loop that packs `LANES` rows of blocks, as `CompiledWeight.packer` says.

    `start` and `stop` are at borders of blocks.
    """
    columns, size, scale_size = form.columns, form.size, form.scale_size
    store, store_columns, ones = store_block(form), store_square(kind), fill_ones(kind)
    word, line, chunk = WORD, PANEL * WORD // kind.per_word, kind.chunk * WORD

    @inlined
    def pack(code, scale, _, outputs, inputs, o, start, stop, target):
        ones(start, stop, target)
        blocks = inputs // columns
        pitch, scale_pitch = blocks * size, blocks * scale_size
        room_OI = np.empty((LANES, columns), np.float32)
        source = room_OI.ctypes.data
        for k in range(start, stop, columns):
            b = k // columns
            for lane in range(LANES):
                row = min(o + lane, outputs - 1)
                block = code + row * pitch + b * size
                place = scale + row * scale_pitch + b * scale_size
                store(block, place, source + lane * columns * word)
            for i in range(0, columns, LANES):
                j = k - start + i
                place = target + j // BLOCK * chunk + PANEL * word + j % BLOCK * line
                store_columns(source + i * word, columns * word, place)

    return pack


class BlockLoops(NamedTuple):
    """The compiled loops of a format: `block_rows` and `block_packer`, and their addresses."""

    form: BlockFormat
    rows: Any
    rows_address: int
    packer: int

    @classmethod
    def of(cls, form: BlockFormat, rows: Any, packer: Any) -> "BlockLoops":
        """Compile the functions of a module, and return them."""
        compile_now(rows, *ROWS_TYPES)
        compile_now(packer, *PACKER_TYPES)
        return cls(form, rows, function_address(rows), function_address(packer))


class _Blocks(NamedTuple):
    loops: BlockLoops
    code: np.ndarray
    scale: np.ndarray
    itemsize: int = WORD  # x as its columns lie

    @property
    def address(self) -> tuple[int, ...]:
        return self.code.ctypes.data, self.scale.ctypes.data, self.loops.rows_address

    @property
    def expert_loop(self) -> Any:
        loops = compiled_module("block_experts")
        return loops and loops.block_experts

    def fill_columns(self, x_NI: np.ndarray, y_NO: np.ndarray, start: int, end: int) -> None:
        x, y, (code, scale, _) = x_NI.ctypes.data, y_NO.ctypes.data, self.address
        self.loops.rows(x, *x_NI.shape, code, scale, y, y_NO.shape[1], start, end)

    @property
    def packer(self) -> int:
        return self.loops.packer

    @property
    def bfloat16_packer(self) -> int:
        return 0


def compiled_blocks(
    loops: BlockLoops, code: np.ndarray, scale: np.ndarray | None = None
) -> CompiledWeight | None:
    """Return a weight of blocks as the loops read it, or None if they cannot."""
    scale = code[:0] if scale is None else scale
    return _Blocks(loops, code, scale) if is_contiguous(code) and is_contiguous(scale) else None
