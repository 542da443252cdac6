"""The inner tiles of decode attention, as LLVM vectors: copies of rows, scores, sums of values.

Scores and sums are of two queries, from matrices of float32 in a core's cache, whose rows are whole
vectors. Compilers leave two thirds of the speed: they keep too few sums in registers, and add up
the lanes of each sum by itself.

Source: LLVM Language Reference: vectors. As in `tile.py`, no instruction set is assumed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .tile import LANES, SUMS, WORDS, add_lanes, fused, select_lanes, splat, spread

__all__ = ["KEYS", "QUERIES", "VALUES", "add_values", "copy_row", "fill_scores"]

QUERIES, KEYS, VECTORS = 2, 4, 4  # eight sums, as many as hide the time that each takes
VALUES = VECTORS * LANES
ALIGN = 2  # bytes; of bfloat16, and enough for float32 on machines with vectors
FLOAT, INT16, INT32, INT64 = ir.FloatType(), *(ir.IntType(bits) for bits in (16, 32, 64))
HALVES = ir.VectorType(INT16, LANES)


@intrinsic
def copy_row(_, bits_ZKI, z, head, is_float32, out_SQ, s):
    """Copy row (z, head), of float32 or of bfloat16, to the beginning of `out_SQ[s]` as float32.

    Rows come as their 16-bit halves, so that one compiled loop serves caches of both dtypes.
    """

    def emit(context, build, signature, args):
        bits, z, head, is_float32, out, s = _arrays(context, build, signature, args)
        row, first = bits.address(z, head, INT64(0)), out.address(s, INT64(0))
        with build.if_else(is_float32) as (wide, narrow):
            with wide:
                length = build.lshr(bits.lengths[2], INT64(1))
                _copy(build, build.bitcast(row, FLOAT.as_pointer()), first, length)
            with narrow:
                _copy(build, row, first, bits.lengths[2])

    return types.void(bits_ZKI, z, head, is_float32, out_SQ, s), emit


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


def _copy(build: Any, source: Any, target: Any, length: Any) -> None:
    """Copy `length` elements, widened to float32: whole vectors, then one by one."""
    whole = build.and_(length, INT64(-LANES))
    is_wide = source.type.pointee == FLOAT
    for start, stop, step in ((INT64(0), whole, LANES), (whole, length, 1)):
        halves, words, floats = (
            vector if step > 1 else vector.element for vector in (HALVES, WORDS, SUMS)
        )
        with _steps(build, start, stop, step) as i:
            value = _load(build, build.gep(source, [i]), floats if is_wide else halves)
            if not is_wide:
                shift = splat(words, 16) if step > 1 else words(16)
                value = build.bitcast(build.shl(build.zext(value, words), shift), floats)
            _store(build, value, build.gep(target, [i]))


def _load(build: Any, address: Any, kind: Any) -> Any:
    return build.load(build.bitcast(address, kind.as_pointer()), align=ALIGN)


def _store(build: Any, value: Any, address: Any) -> None:
    build.store(value, build.bitcast(address, value.type.as_pointer()), align=ALIGN)
