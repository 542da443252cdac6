"""The inner tile of weights whose scales lie inside the sum, as LLVM vectors.

A row of such a weight is a sequence of blocks, each of which decodes to float32 vectors with its
scales in them: an integer format, or one of ggml's. `block_loops` sums and packs with it.

Source: `tile.py`, the tile of formats whose scales can stay outside; ggml, `ggml-quants.c`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .bfloat16_unit import FEATURES
from .panel import PANEL, VECTOR, PanelKind, transposed
from .tile import (
    COLUMNS,
    LANES,
    LINE,
    SUMS,
    WORD,
    WORDS,
    add_lanes,
    fused,
    prefetch,
    select_lanes,
    splat,
    spread,
)

__all__ = [
    "CODES", "BlockFormat", "block_tile", "broadcasts", "bytes_of", "floats_of_bytes", "load",
    "load_half", "load_nibbles", "load_twice", "nibble_values", "offset", "shifted",
    "store_block", "store_square",
]  # fmt: skip

INT16, INT32, INT64 = (ir.IntType(bits) for bits in (16, 32, 64))
FLOAT, HALF = ir.FloatType(), ir.HalfType()
RUN = 32  # bytes that lie together in several formats; the operations of two runs are one
CODES = ir.VectorType(ir.IntType(8), 2 * RUN)
HAS_HALF = "+f16c" in FEATURES or "+avx512f" in FEATURES
HAS_TABLES = LANES == 16 and "+avx512f" in FEATURES  # of 16 numbers
SMALLEST_HALF, HALF_INFINITY = 2.0**-14, 0x0F800000  # the bits of infinity shifted left by 13


class BlockFormat(NamedTuple):
    """A decoder of blocks of a row.

    Attributes
    ----------
    columns
        Columns of a block.
    size
        Bytes of a block, without scales that are stored elsewhere.
    decode
        Function from an IR builder and the addresses of a block and of its scale elsewhere to an
        iterator of the block's float32 vectors, as its columns lie.
    scale_size
        Bytes of a block's scales that are stored elsewhere; 0 where there are none.
    """

    columns: int
    size: int
    decode: Callable[[Any, Any, Any], Iterator[Any]]
    scale_size: int = 0


def offset(build: Any, address: Any, size: int) -> Any:
    """Return the integer address that lies so many bytes behind another."""
    return build.add(address, INT64(size)) if size else address


def load(build: Any, address: Any, kind: Any) -> Any:
    """Return what lies at an integer address, wherever it is."""
    return build.load(build.inttoptr(address, kind.as_pointer()), align=1)


def load_half(build: Any, address: Any) -> Any:
    """Return the float16 at an integer address as float32: exactly, NaN and infinity too.

    Without an instruction for it, exponent and mantissa land in float32's fields by a shift; of
    what is subnormal t stands for 2 t - c, as in `fp8`, and no number on the way is subnormal.
    """
    bits = load(build, address, INT16)
    if HAS_HALF:
        return build.fpext(build.bitcast(bits, HALF), FLOAT)
    bits = build.zext(bits, INT32)
    word = build.shl(build.and_(bits, INT32(0x7FFF)), INT32(13))
    t = build.bitcast(build.add(word, INT32(0x38000000)), FLOAT)
    doubled = build.fsub(build.fadd(t, t), ir.Constant(FLOAT, SMALLEST_HALF))
    value = build.bitcast(build.select(build.fcmp_ordered("<", t, doubled), t, doubled), INT32)
    is_finite = build.icmp_unsigned("<", word, INT32(HALF_INFINITY))
    value = build.select(is_finite, value, build.or_(word, INT32(0x7F800000)))
    sign = build.shl(build.and_(bits, INT32(0x8000)), INT32(16))
    return build.bitcast(build.or_(value, sign), FLOAT)


def broadcasts(build: Any, vectors: list[Any]) -> Callable[[int], Any]:
    """Return the function from an index to a vector with that element of `vectors` in every lane.

    They lie in memory in between: a load that broadcasts leaves the vector units to the product.
    """
    numbers = _in_memory(build, vectors, FLOAT)
    return lambda index: spread(build, build.load(build.gep(numbers, [INT64(index)]), align=WORD))


def _in_memory(build: Any, vectors: list[Any], element: Any) -> Any:
    """Return the address of the elements of vectors in memory, where LLVM does not see them."""
    kind = vectors[0].type
    buffer = cgutils.alloca_once(build, kind, INT64(len(vectors)))
    for i, vector in enumerate(vectors):
        build.store(vector, build.gep(buffer, [INT64(i)]), align=WORD)
    place = build.bitcast(buffer, element.as_pointer())
    nothing = ir.FunctionType(ir.VoidType(), [place.type])
    build.asm(nothing, "", "r,~{memory}", [place], side_effect=True)
    return place


def bytes_of(build: Any, *numbers: Any) -> Any:
    """Return the bytes of two 64-bit integers as a vector."""
    pair = ir.Constant(ir.VectorType(INT64, 2), ir.Undefined)
    for i, number in enumerate(numbers):
        pair = build.insert_element(pair, number, INT32(i))
    return build.bitcast(pair, ir.VectorType(ir.IntType(8), 16))


def load_twice(build: Any, address: Any) -> Any:
    """Return 32 bytes at an integer address, and behind them the same."""
    half = load(build, address, ir.VectorType(ir.IntType(8), RUN))
    return select_lanes(build, half, half, [*range(RUN)] * 2)


def shifted(build: Any, codes: Any, right: Sequence[int], mask: int) -> Any:
    """Return the bits of `mask` of 64 bytes, each half shifted to the right, or to the left."""
    words = ir.VectorType(INT16, RUN)
    sizes = [abs(size) for size in right for _ in range(RUN // 2)]
    shift = build.lshr if max(right) > 0 else build.shl
    moved = shift(build.bitcast(codes, words), ir.Constant(words, sizes)) if any(right) else codes
    return build.and_(build.bitcast(moved, CODES), splat(CODES, mask))


def floats_of_bytes(build: Any, codes: Any) -> list[Any]:
    """Return signed bytes as float32, `LANES` of them at a time."""
    kind = ir.VectorType(ir.IntType(8), LANES)
    if codes.type.count > LANES:  # a load that widens takes one instruction
        place = build.bitcast(_in_memory(build, [codes], ir.IntType(8)), kind.as_pointer())
        addresses = (build.gep(place, [INT64(i)]) for i in range(codes.type.count // LANES))
        parts = [build.load(address, align=1) for address in addresses]
    else:
        parts = [codes]
    return [build.sitofp(build.sext(part, WORDS), SUMS) for part in parts]


def load_nibbles(build: Any, address: Any) -> Any:
    """Return `LANES` words that begin with the nibbles of bytes, that of lower bits first."""
    codes = load(build, address, ir.VectorType(ir.IntType(8), LANES // 2))
    wide = build.zext(codes, ir.VectorType(INT64, LANES // 2))
    # The lower word of a pair keeps the byte, and the upper one gets its upper nibble.
    return build.bitcast(build.or_(wide, build.shl(wide, splat(wide.type, 28))), WORDS)


def nibble_values(
    build: Any, table: Sequence[float], decode: Any, scale: Any, minimum: Any = None
) -> Callable[[Any, int], Any]:
    """Return the function from words, and how far in them nibbles lie, to the nibbles' numbers.

    A number is that of a nibble in `table` times the scale, less the minimum. Where a register can
    be a table of 16 numbers, what lies above the nibbles does not matter; elsewhere `decode`
    computes the number of table.
    """

    def scaled(values: Any) -> Any:
        if minimum is None:
            return build.fmul(values, scale)
        return fused(build, values, scale, build.fneg(minimum))

    numbers = scaled(ir.Constant(SUMS, list(map(float, table)))) if HAS_TABLES else None

    def values(words: Any, shift: int) -> Any:
        words = build.lshr(words, splat(WORDS, shift)) if shift else words
        if not HAS_TABLES:
            return scaled(decode(build, build.and_(words, splat(WORDS, 0x0F))))
        signature = ir.FunctionType(SUMS, (SUMS, WORDS))
        name = "llvm.x86.avx512.permvar.sf.512"
        permute = cgutils.get_or_insert_function(build.module, signature, name)
        return build.call(permute, (numbers, words))

    return values


def block_tile(form: BlockFormat, rows: int) -> Any:
    """Return the function that multiplies `rows` rows of x by four rows of a weight.

    Its arguments are (y, y_pitch, x, x_pitch, last_x, code, code_pitch, scale, scale_pitch, last,
    blocks), integers: addresses, and the bytes from one row to the next. Of x it reads the rows 0
    to `last_x`, of the weight 0 to `last`, and writes a result for each of these pairs.
    """

    @intrinsic
    def multiply(
        _, y, y_pitch, x, x_pitch, last_x, code, code_pitch, scale, scale_pitch, last, blocks
    ):
        signature = types.void(*[types.int64] * 11)
        assert not {
            *(y, y_pitch, x, x_pitch, last_x, code, code_pitch, scale, scale_pitch, last, blocks)
        } - {types.int64}

        def emit(context, build, __, args):
            _Tile(form, rows, build, args).emit()
            return context.get_dummy_value()

        return signature, emit

    return multiply


class _Tile:
    """LLVM IR builder of `block_tile`: a loop over blocks, its sums in registers."""

    def __init__(self, form: BlockFormat, rows: int, build: Any, args: Any) -> None:
        self.form, self.build = form, build
        self.y, self.y_pitch, x, x_pitch, self.last_x, code, pitch, scale, scale_pitch = args[:9]
        self.last, self.blocks = args[9:]
        self.x = self._rows(x, x_pitch, rows, self.last_x)
        self.code = self._rows(code, pitch, COLUMNS, self.last)
        self.scale = self._rows(scale, scale_pitch, COLUMNS, self.last)
        self.ahead = build.mul(pitch, INT64(COLUMNS))

    def emit(self) -> None:
        """Emit the loop and the stores of all sums."""
        build = self.build
        cells = range(len(self.x) * COLUMNS)
        sums = [cgutils.alloca_once_value(build, splat(SUMS, 0.0)) for _ in cells]
        with cgutils.for_range(build, self.blocks, intp=INT64) as loop:
            for total, value in zip(sums, self._added(loop.index, sums), strict=True):
                build.store(value, total)
        self._store([build.load(total) for total in sums])

    def _added(self, i: Any, sums: list[Any]) -> list[Any]:
        """Return the sums and the products of one block, vector after vector."""
        build, form = self.build, self.form
        start = build.mul(i, INT64(form.size))
        first_x = build.mul(i, INT64(form.columns * WORD))
        added = [build.load(total) for total in sums]
        for v, weights in enumerate(zip(*self._decoders(i, start), strict=True)):
            for row, x in enumerate(self.x):
                place = offset(build, build.add(x, first_x), v * VECTOR)
                value = load(build, place, SUMS)
                for column, w in enumerate(weights):
                    index = row * COLUMNS + column
                    added[index] = fused(build, value, w, added[index])
        return added

    def _decoders(self, i: Any, start: Any) -> list[Iterator[Any]]:
        """Return the decoders of one block of each row of the weight; prefetch those behind."""
        build, form, decoders = self.build, self.form, []
        behind = build.mul(i, INT64(form.scale_size))
        for code, scale in zip(self.code, self.scale, strict=True):
            block = build.add(code, start)
            for line in range(0, form.size, LINE):
                place = build.add(block, self.ahead)
                place = build.inttoptr(offset(build, place, line), ir.IntType(8).as_pointer())
                prefetch(build, place)
            decoders.append(form.decode(build, block, build.add(scale, behind)))
        return decoders

    def _rows(self, start: Any, pitch: Any, count: int, last: Any) -> list[Any]:
        """Return the addresses of rows; behind the last one lies the last."""
        build, rows = self.build, []
        for row in range(count):
            index = build.select(build.icmp_signed("<", INT64(row), last), INT64(row), last)
            rows.append(build.add(start, build.mul(index, pitch)))
        return rows

    def _store(self, sums: list[Any]) -> None:
        """Add up the lanes of each sum, and store those of rows that there are."""
        build = self.build
        for row in range(len(self.x)):
            total = add_lanes(build, sums[row * COLUMNS : (row + 1) * COLUMNS])
            place = build.add(self.y, build.mul(INT64(row), self.y_pitch))
            is_row = build.icmp_signed("<=", INT64(row), self.last_x)
            for column in range(COLUMNS):
                is_column = build.icmp_signed("<=", INT64(column), self.last)
                with build.if_then(build.and_(is_row, is_column)):
                    value = build.extract_element(total, INT32(column))
                    target = offset(build, place, column * WORD)
                    build.store(value, build.inttoptr(target, FLOAT.as_pointer()), align=WORD)


def store_block(form: BlockFormat) -> Any:
    """Return the function that decodes a block to float32 in memory.

    Its arguments are the addresses of the block, of its scale elsewhere, and of the memory.
    """

    @intrinsic
    def store(_, code, scale, target):
        def emit(context, build, __, args):
            code, scale, target = args
            for v, vector in enumerate(form.decode(build, code, scale)):
                place = offset(build, target, v * VECTOR)
                build.store(vector, build.inttoptr(place, SUMS.as_pointer()), align=WORD)
            return context.get_dummy_value()

        return types.void(code, scale, target), emit

    return store


def store_square(kind: PanelKind) -> Any:
    """Return the function that puts a square of decoded columns into a panel, transposed.

    Its arguments are the address of `LANES` float32 of the first row, the bytes from one row to the
    next, and the address in the panel.
    """

    @intrinsic
    def store(_, source, pitch, target):
        def emit(context, build, __, args):
            source, pitch, target = args
            rows = (build.add(source, build.mul(INT64(row), pitch)) for row in range(LANES))
            words = transposed(build, [load(build, row, WORDS) for row in rows])
            values = [build.bitcast(word, SUMS) for word in words]
            for i in range(0, LANES, kind.per_word):
                packed = kind.pack(build, values[i : i + kind.per_word])
                place = offset(build, target, i // kind.per_word * PANEL * WORD)
                build.store(packed, build.inttoptr(place, packed.type.as_pointer()), align=VECTOR)
            return context.get_dummy_value()

        return types.void(source, pitch, target), emit

    return store
