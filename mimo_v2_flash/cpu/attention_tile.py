"""The inner tiles of decode attention, as LLVM vectors: copies of rows, scores, sums of values.

A cache's rows are floats, or codes of 8 bits and a scale. Scores and sums are of two queries, from
matrices of float32 in a core's cache, whose rows are whole vectors. Compilers leave two
thirds of the speed: they keep too few sums in registers, and add up the lanes of each sum by
itself.

Source: LLVM Language Reference: vectors. As in `tile.py`, no instruction set is assumed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .kv_codes import CODES, SCALE
from .tile import LANES, SUMS, add_lanes, fused, select_lanes, splat, spread

__all__ = ["KEYS", "KINDS", "QUERIES", "VALUES", "add_values", "copy_row", "fill_scores"]

QUERIES, KEYS, VECTORS = 2, 4, 4  # eight sums, as many as hide the time that each takes
VALUES = VECTORS * LANES
KINDS = [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), CODES["int8"], CODES["fp8"]]
"""Dtypes of a cache, in the order of the numbers that `copy_row` takes for them."""
ALIGN = 1  # byte; of codes, and enough for floats on machines with vectors
FLOAT, INT8, INT16, INT32, INT64 = ir.FloatType(), *(ir.IntType(bits) for bits in (8, 16, 32, 64))
SIGN, MAGNITUDE = 0x80, 0x7F  # of a code of E4M3, which `fp8.py` explains
BIAS, SMALLEST, UNIT = 0x38000000, 2.0**-14, 2.0**8


@intrinsic
def copy_row(_, bytes_ZKI, z, head, kind, out_SQ, s):
    """Copy row (z, head) to the beginning of `out_SQ[s]` as float32; its dtype is of `KINDS`.

    Rows come as bytes, so that one compiled loop serves caches of all dtypes.
    """

    def emit(context, build, signature, args):
        rows, z, head, kind, out, s = _arrays(context, build, signature, args)
        row, first = rows.address(z, head, INT64(0)), out.address(s, INT64(0))
        done = build.append_basic_block("copied")
        cases = build.switch(kind, done)
        for number, copy in enumerate((_copy_floats, _copy_bfloat16, _copy_int8, _copy_float8)):
            block = build.append_basic_block()
            cases.add_case(INT64(number), block)
            build.position_at_end(block)
            copy(build, row, first, rows.lengths[2])
            build.branch(done)
        build.position_at_end(done)

    return types.void(bytes_ZKI, z, head, kind, out_SQ, s), emit


@intrinsic
def fill_scores(_, q_GQ, g, k_SQ, s, score_GS):
    """Fill rows g and g + 1, columns s to s + 3 of `score_GS`: products of queries and keys."""

    def emit(context, build, signature, args):
        q, g, k, s, score = _arrays(context, build, signature, args)
        rows, columns = _after(build, g, QUERIES), _after(build, s, KEYS)
        sums = [cgutils.alloca_once_value(build, splat(SUMS, 0.0)) for _ in product(rows, columns)]
        with _steps(build, INT64(0), q.lengths[1], LANES) as i:
            queries = [_load(build, q.address(row, i), SUMS) for row in rows]
            keys = [_load(build, k.address(column, i), SUMS) for column in columns]
            for total, (query, key) in zip(sums, product(queries, keys), strict=True):
                _add_product(build, total, query, key)
        total = add_lanes(build, [build.load(total) for total in sums])
        for index, row in enumerate(rows):
            part = select_lanes(build, total, total, range(index * KEYS, (index + 1) * KEYS))
            _store(build, part, score.address(row, s))

    return types.void(q_GQ, g, k_SQ, s, score_GS), emit


@intrinsic
def add_values(_, weight_GS, g, v_SC, keys, y_GC, c):
    """Add the first `keys` values, weighted, to rows g and g + 1, `VALUES` columns from c, of y."""

    def emit(context, build, signature, args):
        weight, g, v, keys, y, c = _arrays(context, build, signature, args)
        rows, columns = _after(build, g, QUERIES), _after(build, c, VECTORS, LANES)
        places = [y.address(*place) for place in product(rows, columns)]
        sums = [cgutils.alloca_once_value(build, _load(build, place, SUMS)) for place in places]
        with _steps(build, INT64(0), keys, 1) as s:
            values = [_load(build, v.address(s, column), SUMS) for column in columns]
            weights = [spread(build, build.load(weight.address(row, s))) for row in rows]
            for total, (each, value) in zip(sums, product(weights, values), strict=True):
                _add_product(build, total, each, value)
        for total, place in zip(sums, places, strict=True):
            _store(build, build.load(total), place)

    return types.void(weight_GS, g, v_SC, keys, y_GC, c), emit


class _Array:
    """An array argument of an intrinsic."""

    def __init__(self, context: Any, build: Any, array_type: Any, array: Any) -> None:
        self._context, self._build, self._type = context, build, array_type
        self._array = make_array(array_type)(context, build, array)
        self.lengths = cgutils.unpack_tuple(build, self._array.shape)

    def address(self, *index: Any) -> Any:
        """Return the address of an element."""
        return cgutils.get_item_pointer(
            self._context, self._build, self._type, self._array, index, wraparound=False
        )


def _arrays(context: Any, build: Any, signature: Any, args: Any) -> list[Any]:
    """Return the arguments of an intrinsic, arrays among them as `_Array`."""
    return [
        _Array(context, build, kind, arg) if isinstance(kind, types.Array) else arg
        for kind, arg in zip(signature.args, args, strict=True)
    ]


@contextmanager
def _steps(build: Any, start: Any, stop: Any, step: int) -> Iterator[Any]:
    """Emit a loop from `start` to `stop`, and yield its index."""
    with cgutils.for_range_slice(build, start, stop, INT64(step), INT64) as (index, _):
        yield index


def _after(build: Any, start: Any, count: int, step: int = 1) -> list[Any]:
    return [build.add(start, INT64(index * step)) for index in range(count)]


def _add_product(build: Any, total: Any, a: Any, b: Any) -> None:
    """Add `a` times `b` to the variable `total`, which LLVM keeps in a register."""
    build.store(fused(build, a, b, build.load(total)), total)


def _copy_floats(build: Any, row: Any, target: Any, size: Any) -> None:
    _copy(build, row, target, build.lshr(size, INT64(2)), INT32, lambda bits: bits)


def _copy_bfloat16(build: Any, row: Any, target: Any, size: Any) -> None:
    _copy(build, row, target, build.lshr(size, INT64(1)), INT16, partial(_widened, build))


def _copy_int8(build: Any, row: Any, target: Any, size: Any) -> None:
    length, scale = _scale(build, row, size)

    def decoded(code: Any) -> Any:
        number = build.sitofp(build.sext(code, _like(code, INT32)), _like(code, FLOAT))
        return build.fmul(number, _same(build, scale, code))

    _copy(build, row, target, length, INT8, decoded)


def _copy_float8(build: Any, row: Any, target: Any, size: Any) -> None:
    length, scale = _scale(build, row, size)
    scale = build.fmul(scale, FLOAT(UNIT))

    def decoded(code: Any) -> Any:
        number = _float8(build, build.zext(code, _like(code, INT32)))
        return build.fmul(number, _same(build, scale, code))

    _copy(build, row, target, length, INT8, decoded)


def _float8(build: Any, word: Any) -> Any:
    """Return the number of a code that is not NaN, 2^8 too small: nothing in it is subnormal."""
    floats = _like(word, FLOAT)
    magnitude = build.shl(
        build.and_(word, _constant(word.type, MAGNITUDE)), _constant(word.type, 20)
    )
    t = build.bitcast(build.or_(magnitude, _constant(word.type, BIAS)), floats)
    doubled = build.fsub(build.fadd(t, t), _constant(floats, SMALLEST))
    value = build.select(build.fcmp_ordered("<", t, doubled), t, doubled)
    sign = build.shl(build.and_(word, _constant(word.type, SIGN)), _constant(word.type, 24))
    return build.bitcast(build.or_(build.bitcast(value, word.type), sign), floats)


def _scale(build: Any, row: Any, size: Any) -> tuple[Any, Any]:
    """Return the number of codes in a row of `size` bytes, and the scale after them."""
    length = build.sub(size, INT64(SCALE.itemsize))
    return length, _widened(build, _load(build, build.gep(row, [length]), INT16))


def _widened(build: Any, half: Any) -> Any:
    """Return the float32 of a bfloat16."""
    words = _like(half, INT32)
    word = build.shl(build.zext(half, words), _constant(words, 16))
    return build.bitcast(word, _like(half, FLOAT))


def _copy(
    build: Any, row: Any, target: Any, length: Any, element: Any, decoded: Callable[[Any], Any]
) -> None:
    """Copy `length` elements of a row, decoded: whole vectors, then one by one."""
    whole, source = build.and_(length, INT64(-LANES)), build.bitcast(row, element.as_pointer())
    for start, stop, step in ((INT64(0), whole, LANES), (whole, length, 1)):
        loaded = ir.VectorType(element, LANES) if step > 1 else element
        with _steps(build, start, stop, step) as i:
            value = decoded(_load(build, build.gep(source, [i]), loaded))
            _store(build, value, build.gep(target, [i]))


def _like(value: Any, element: Any) -> Any:
    """Return the type of as many elements as `value` has."""
    is_vector = isinstance(value.type, ir.VectorType)
    return ir.VectorType(element, LANES) if is_vector else element


def _constant(kind: Any, value: float) -> Any:
    return splat(kind, value) if isinstance(kind, ir.VectorType) else kind(value)


def _same(build: Any, value: Any, like: Any) -> Any:
    """Return a number in as many lanes as `like` has."""
    return spread(build, value) if isinstance(like.type, ir.VectorType) else value


def _load(build: Any, address: Any, kind: Any) -> Any:
    return build.load(build.bitcast(address, kind.as_pointer()), align=ALIGN)


def _store(build: Any, value: Any, address: Any) -> None:
    build.store(value, build.bitcast(address, value.type.as_pointer()), align=ALIGN)
