"""The compiled product of many rows of x with packed panels of a weight of any format.

A task packs some outputs and inputs at a time, as many as stay in a core's second cache, and
multiplies all rows of x by them. The format's function packs; it is called by its address, so that
this loop is compiled once for all formats.

Every sum has one order: the products of `BLOCK` inputs one after another, then, times their scale,
block after block. It depends neither on threads nor on the number of rows.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, float32, int64, intp, types
from numba.extending import intrinsic

from .code_cache import compile_now
from .loops import OUTPUT, in_order, inlined, input_type
from .panel import (
    BLOCK,
    FLOAT32_PANEL,
    PANEL,
    ROWS,
    VECTOR,
    PanelKind,
    copy_tail,
    pack_line,
    panel_tile,
    row_table,
)
from .tile import LANES, WORD, ElementFormat, pointer

__all__ = [
    "PACKER_TYPES", "SCRATCH", "call_address", "fill_ones", "float32_panels", "function_address",
    "panel_loop", "rows_packer",
]  # fmt: skip

ROW_BLOCK = 8 * ROWS  # of x, which stay in the first cache with a block of a panel
DEPTH, OUTPUTS = 1024, 128  # words of inputs, and outputs, that are packed at a time
SCRATCH = OUTPUTS * DEPTH // BLOCK * (BLOCK + 2)  # words of which a task packs so many: 512 KiB
PACKER_TYPES = (int64,) * 9  # of a format's packer, `rows_packer`'s and two more of an address
ZERO, ONE = map(np.float32, (0, 1))


@intrinsic
def call_address(_, function, arguments):
    """Call a C function of integers that returns nothing, by its address."""

    def emit(context, build, signature, args):
        values = [build.extract_value(args[1], i) for i in range(signature.args[1].count)]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        build.call(build.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(function, arguments), emit


def function_address(function: Any) -> int:
    """Return the address by which C calls a function that was compiled with `compile_now`."""
    (compiled,) = function.overloads.values()
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))


def rows_packer(element_format: ElementFormat, kind: PanelKind) -> Any:
    """Return the loop that packs `LANES` rows of a weight, without scales.

    Its arguments are (weight, outputs, inputs, o, start, stop, target), all integers: it reads
    columns `start` to `stop` of rows o to o + `LANES` - 1 of a weight at an address, the last row
    where there are no more, and writes to the address `target`, beyond the scales of each block.
    """
    size, step = element_format.size, VECTOR // element_format.size
    pack, pack_exactly = (pack_line(element_format, kind, exact=exact) for exact in (False, True))
    line, chunk, scales = (WORD * n for n in (step // kind.per_word * PANEL, kind.chunk, PANEL))

    @inlined
    def pack_rows(weight, outputs, inputs, o, start, stop, target):
        pitch = inputs * size
        table, ahead = row_table(weight + o * pitch, pitch, outputs - 1 - o), LANES * pitch
        for block in range(start, stop, BLOCK):
            place = target + scales
            for i in range(block, min(block + BLOCK, stop), step):
                rows, offset = table, i * size
                if i + step > inputs:
                    rows, offset = copy_tail(table, offset, pitch - offset), 0
                if not pack(rows, offset, ahead, place):
                    pack_exactly(rows, offset, ahead, place)
                place += line
            target += chunk

    return pack_rows


def fill_ones(kind: PanelKind) -> Any:
    """Return the loop that fills the scales of `LANES` packed rows of a weight without any."""
    chunk = kind.chunk

    @inlined
    def fill(start, stop, target):
        panel_XW = carray(pointer(target), ((stop - start + BLOCK - 1) // BLOCK, chunk), float32)
        panel_XW[:, :LANES] = ONE

    return fill


def panel_loop(kind: PanelKind, add_tile: Any = None, rows: int = ROWS) -> Any:
    """Return the loop that fills columns `start` to `end` of a product, packing on its way.

    `pack` and `address` are the format's function and what it reads: `CompiledWeight.packer` and
    `CompiledWeight.address`. `add_tile` is in place of the kind's tile, for as many `rows` of x.
    """
    add_panel = _tiles_loop(kind, add_tile or panel_tile(kind), rows)
    add_packed, depth = _packed_loop(kind, add_panel), DEPTH * kind.per_word
    pitch = depth // BLOCK * kind.chunk

    @inlined
    def loop(x_NW, pack, address, inputs, y_NO, start, end, panel_W):
        code, scale, height = address
        outputs, target = y_NO.shape[1], panel_W.ctypes.data
        y_NO[:, start:end] = ZERO
        for first in range(start, end, OUTPUTS):
            stop = min(first + OUTPUTS, end)
            for k in range(0, inputs, depth):
                until = min(k + depth, inputs)
                for o in range(0, stop - first, LANES):
                    place = target + (o // PANEL * pitch + o % PANEL) * WORD
                    call_address(
                        pack, (code, scale, height, outputs, inputs, first + o, k, until, place)
                    )
                add_packed(x_NW, panel_W, y_NO, first, stop, k, until)

    return loop


def _packed_loop(kind: PanelKind, add_panel: Any) -> Any:
    """Return the loop that adds the products with packed inputs to columns of `y_NO`."""
    pitch = DEPTH * kind.per_word // BLOCK * kind.chunk

    @inlined
    def add_packed(x_NW, panel_W, y_NO, start, end, k_start, k_end):
        sum_RO = np.zeros((ROW_BLOCK, PANEL), np.float32)
        for n in range(0, y_NO.shape[0], ROW_BLOCK):
            rows = min(ROW_BLOCK, y_NO.shape[0] - n)
            for o in range(start, end, PANEL):
                columns, p = min(PANEL, end - o), (o - start) // PANEL * pitch
                _copy(y_NO, n, o, sum_RO, 0, 0, rows, columns)
                add_panel(x_NW, n, rows, panel_W, p, sum_RO, k_start, k_end)
                _copy(sum_RO, 0, 0, y_NO, n, o, rows, columns)

    return add_packed


def _tiles_loop(kind: PanelKind, add_tile: Any, tile_rows: int) -> Any:
    """Return the loop that adds the products of some rows of x with one panel to `sum_RO`."""
    per_word, chunk = kind.per_word, kind.chunk

    @inlined
    def add_panel(x_NW, n, rows, panel_W, p, sum_RO, k_start, k_end):
        for k in range(k_start, k_end, BLOCK):
            steps = (min(BLOCK, k_end - k) + per_word - 1) // per_word
            for r in range(0, rows, tile_rows):
                add_tile(x_NW, n + r, k // per_word, steps, panel_W, p, sum_RO, r)
            p += chunk

    return add_panel


@inlined
def _copy(source_NO, n, o, target_NO, r, c, rows, columns):
    """Copy a part from (n, o) on to (r, c)."""
    for row in range(rows):
        for column in range(columns):
            target_NO[r + row, c + column] = source_NO[n + row, o + column]


_float32_loop = panel_loop(FLOAT32_PANEL)


@in_order
def float32_panels(x_NI, pack, address, y_NO, start, end, panel_W):
    """Fill columns `start` to `end` of `y_NO` from float32 panels of a weight."""
    _float32_loop(x_NI, pack, address, x_NI.shape[1], y_NO, start, end, panel_W)


PANEL_TYPES = (
    *(int64, types.UniTuple(int64, 3), OUTPUT, intp, intp, types.Array(float32, 1, "C")),
)
compile_now(float32_panels, input_type(float32), *PANEL_TYPES)
