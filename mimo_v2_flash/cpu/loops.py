"""Numba loops that sum a stored weight's elements in registers, made with a decoder.

Numba compiles them for the machine that runs them; no instruction set is assumed.

Source: numba's nopython mode; register blocking of four rows of x by four of w.
"""

from typing import Any

import numpy as np
from numba import float32, njit, types

from .code_cache import SUM_ORDER, compiled
from .tile import COLUMNS, LINE, ElementFormat, tile

__all__ = [
    "OUTPUT", "ROW_BLOCK", "fill_columns", "in_order", "inlined", "input_type", "rows_loop",
    "summed",
]  # fmt: skip

ROW_BLOCK = 8  # rows of x for each pass over a block of columns: they stay in a core's cache
COLUMN_BLOCK = 128  # columns of the product for each pass over the rows of x
in_order = compiled()
summed = compiled(fastmath=SUM_ORDER)
inlined = njit(inline="always")
OUTPUT = types.Array(float32, 2, "C")


def input_type(dtype: Any) -> Any:
    """Return the type of a matrix of `dtype` that a loop reads, from memory or a mapped file."""
    return types.Array(dtype, 2, "C", readonly=True)


def fill_columns(element_format: ElementFormat) -> Any:
    """Return the loop that fills four columns of y; it returns whether a code may be NaN."""
    sum_tiles, step = _sum_tiles(element_format), LINE // element_format.size
    decode = element_format.decode_one

    @inlined
    def columns(x_NI, w_OI, y_NO, sum_N4, o, last):
        end = w_OI.shape[1] // step * step
        may_be_nan = end > 0 and sum_tiles(x_NI, w_OI, sum_N4, o, last, end)
        for column in range(min(COLUMNS, last - o + 1)):
            for n in range(x_NI.shape[0]):
                total = sum_N4[n, column] if end > 0 else np.float32(0)
                for i in range(end, w_OI.shape[1]):
                    total += x_NI[n, i] * decode(w_OI[o + column, i])
                y_NO[n, o + column] = total
        return may_be_nan or end < w_OI.shape[1]

    return columns


def rows_loop(element_format: ElementFormat) -> Any:
    """Return the loop that fills columns `start` to `end` of y from a weight without scales.

    Numba finds the code of a module's functions on disk, not that of a function's functions: what
    calls this loop is a module's.
    """
    columns = fill_columns(element_format)

    @inlined
    def rows(x_NI, w_OI, y_NO, start, end):
        sum_N4 = np.empty((ROW_BLOCK, COLUMNS), np.float32)
        for row in range(start, end, COLUMN_BLOCK):
            stop = min(row + COLUMN_BLOCK, end)
            for n in range(0, x_NI.shape[0], ROW_BLOCK):
                block = slice(n, n + ROW_BLOCK)
                for o in range(row, stop, COLUMNS):
                    columns(x_NI[block], w_OI, y_NO[block], sum_N4, o, stop - 1)

    return rows


def _sum_tiles(element_format: ElementFormat) -> Any:
    """Return the loop over rows of x, four at a time, that fills `sum_N4`."""
    one, two, three, four = (tile(element_format, rows) for rows in (1, 2, 3, 4))

    @inlined
    def sum_tiles(x_NI, w_OI, sum_N4, o, last, end):
        has_nan, N = False, x_NI.shape[0]
        for n in range(0, N, 4):
            if n + 1 == N:
                has_nan |= one(sum_N4, n, x_NI, w_OI, o, last, end)
            elif n + 2 == N:
                has_nan |= two(sum_N4, n, x_NI, w_OI, o, last, end)
            elif n + 3 == N:
                has_nan |= three(sum_N4, n, x_NI, w_OI, o, last, end)
            else:
                has_nan |= four(sum_N4, n, x_NI, w_OI, o, last, end)
        return has_nan

    return sum_tiles
