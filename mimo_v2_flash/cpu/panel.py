"""Packed panels of a weight, for many rows of x: packing, and the inner tile, as LLVM vectors.

A panel holds some outputs of a weight, decoded, input after input, so that a tile of six rows of x
reads it in one stream. To pack, a weight is read as words, as by `tile.py`: as many words of as
many rows as a vector has lanes are transposed, so that the vector decoder of any format yields one
input of several outputs.

Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008). As in
`tile.py`, no instruction set is assumed. docs/decisions/0042 has the figures.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .tile import (
    LANES,
    SUMS,
    WORD,
    WORDS,
    Decoder,
    ElementFormat,
    fused,
    prefetch,
    select_lanes,
    splat,
    spread,
)

__all__ = [
    "BLOCK", "FLOAT32_PANEL", "PANEL", "ROWS", "VECTOR", "PanelKind", "copy_tail", "pack_line",
    "panel_tile", "row_table", "transposed",
]  # fmt: skip

ROWS = 6
VECTORS = LANES // 4  # of outputs: with 16 lanes 24 sums in 32 registers, with 8 12 sums in 16
PANEL = VECTORS * LANES  # outputs
BLOCK = 128  # inputs that share a scale
VECTOR = LANES * WORD  # bytes
BIT, INT8, INT64 = (ir.IntType(bits) for bits in (1, 8, 64))
CODES = ir.VectorType(INT8, VECTOR)


class PanelKind(NamedTuple):
    """What a panel, and x, hold in a word.

    Attributes
    ----------
    per_word
        Inputs.
    pack
        Function from an IR builder and a float32 vector for each of these inputs to a vector.
    add_products
        Function from an IR builder, a vector of sums, a word of x in all lanes and a vector of a
        panel to the sums with their products.
    """

    per_word: int
    pack: Callable[[Any, list[Any]], Any]
    add_products: Callable[[Any, Any, Any, Any], Any]

    @property
    def chunk(self) -> int:
        """Words of a block of a panel: a scale for each output, and the inputs."""
        return (BLOCK // self.per_word + 1) * PANEL


FLOAT32_PANEL = PanelKind(
    1,
    lambda _, values: values[0],
    lambda build, sums, x, w: fused(build, x, build.bitcast(w, SUMS), sums),
)


@intrinsic
def row_table(_, source, pitch, last):
    """Return the address of a table of addresses: of `LANES` rows, `pitch` bytes from each other.

    No row comes after the one of index `last`, which stands for those behind it. The table has
    room for as many others, and lies on the stack of the function that calls this.
    """

    def emit(_, build, __, args):
        source, pitch, last = args
        table = cgutils.alloca_once(build, INT64, INT64(2 * LANES))
        for row in range(LANES):
            index = build.select(build.icmp_signed("<", INT64(row), last), INT64(row), last)
            address = build.add(source, build.mul(index, pitch))
            build.store(address, build.gep(table, [INT64(row)]))
        return build.ptrtoint(table, INT64)

    return types.int64(source, pitch, last), emit


@intrinsic
def copy_tail(_, table, offset, left):
    """Return a `row_table` of copies: the `left` bytes from `offset` on, and zeros."""

    def emit(_, build, __, args):
        table, offset, left = args
        buffer = cgutils.alloca_once(build, WORDS, INT64(LANES))
        table = build.inttoptr(table, INT64.as_pointer())
        for row in range(LANES):
            copy = build.gep(buffer, [INT64(row)])
            build.store(splat(WORDS, 0), copy, align=WORD)
            source = build.add(build.load(build.gep(table, [INT64(row)])), offset)
            cgutils.raw_memcpy(build, _pointer(build, copy), _pointer(build, source), left, 1)
            place = build.gep(table, [INT64(LANES + row)])
            build.store(build.ptrtoint(copy, INT64), place)
        return build.ptrtoint(build.gep(table, [INT64(LANES)]), INT64)

    return types.int64(table, offset, left), emit


def pack_line(element_format: ElementFormat, kind: PanelKind, *, exact: bool) -> Any:
    """Return the function that packs a vector of words of each of `LANES` rows of a weight.

    Its arguments are (table, offset, ahead, target), integers: a `row_table`, where in the rows
    the words are, how far behind what to prefetch is, and the address to which the words go,
    `PANEL` words apart. It returns whether it has decoded every code: without `exact` it does
    those of `normal_codes` alone. With it, the first element of a row that holds NaN is NaN.
    """

    @intrinsic
    def pack(_, table, offset, ahead, target):
        def emit(_, build, __, args):
            packer = _Packer(element_format, kind, build, *args)
            return packer.emit_exact() if exact else packer.emit_normal()

        return types.boolean(table, offset, ahead, target), emit

    return pack


class _Packer:
    """LLVM IR builder of `pack_line`."""

    def __init__(
        self, element_format: ElementFormat, kind: PanelKind, build: Any, *args: Any
    ) -> None:
        self.element_format, self.kind, self.build = element_format, kind, build
        table, self.offset, self.ahead, self.target = args
        self.table = build.inttoptr(table, INT64.as_pointer())

    def emit_normal(self) -> Any:
        """Emit loads, transposition, decoding, stores; return whether all codes are normal."""
        element_format, words = self.element_format, self._words()
        self._store(words, element_format.decode_normal or element_format.decode)
        return self._are_normal(words) if element_format.decode_normal else BIT(1)

    def emit_exact(self) -> Any:
        """Emit the same for all codes, but nothing where there is only one decoder."""
        if self.element_format.decode_normal is not None:
            words = self._words()
            self._store(words, self.element_format.decode, self._hold_nan(words))
        return BIT(1)

    def _words(self) -> list[Any]:
        """Return the words of all rows, transposed, and prefetch those of other rows."""
        build, rows = self.build, []
        for row in range(LANES):
            address = build.add(build.load(build.gep(self.table, [INT64(row)])), self.offset)
            place = build.inttoptr(address, WORDS.as_pointer())
            rows.append(build.load(place, align=1))
            prefetch(build, _pointer(build, build.add(address, self.ahead)))
        return transposed(build, rows)

    def _store(self, words: list[Any], decode: Decoder, is_nan: Any = None) -> None:
        """Store decoded words, the first as NaN in the lanes of `is_nan`."""
        build, values, per_word = self.build, list[Any](), self.kind.per_word
        place = self.target
        for word in words:
            values += decode(build, word)
            if is_nan is not None:
                values[0] = build.select(is_nan, splat(SUMS, float("nan")), values[0])
                is_nan = None
            while len(values) >= per_word:
                packed = self.kind.pack(build, values[:per_word])
                build.store(packed, _pointer(build, place, packed.type), align=VECTOR)
                place, values = build.add(place, INT64(PANEL * WORD)), values[per_word:]

    def _are_normal(self, words: list[Any]) -> Any:
        """Return whether all codes are in `normal_codes`: one comparison of the differences."""
        build, (first, *_, last) = self.build, self.element_format.normal_codes
        codes = [build.sub(code, splat(CODES, first)) for code in self._codes(words)]
        is_outside = build.icmp_unsigned(">", self._largest(codes), splat(CODES, last - first))
        signature = ir.FunctionType(BIT, (is_outside.type,))
        name = f"llvm.vector.reduce.or.v{CODES.count}i1"
        reduce_or = cgutils.get_or_insert_function(build.module, signature, name)
        return build.not_(build.call(reduce_or, (is_outside,)))

    def _hold_nan(self, words: list[Any]) -> Any:
        """Return for each row whether one of its codes is NaN."""
        build, nan = self.build, splat(CODES, self.element_format.nan_code)
        is_nan = build.icmp_unsigned("==", self._largest(self._codes(words)), nan)
        lanes = build.bitcast(build.sext(is_nan, CODES), WORDS)
        return build.icmp_unsigned("!=", lanes, splat(WORDS, 0))

    def _codes(self, words: list[Any]) -> list[Any]:
        """Return the codes of words, without their signs."""
        build, sign_less = self.build, splat(CODES, 0x7F)
        return [build.and_(build.bitcast(word, CODES), sign_less) for word in words]

    def _largest(self, codes: list[Any]) -> Any:
        """Return the largest code at each position."""
        largest = codes[0]
        for code in codes[1:]:
            is_larger = self.build.icmp_unsigned(">", code, largest)
            largest = self.build.select(is_larger, code, largest)
        return largest


def _pointer(build: Any, address: Any, kind: Any = INT8) -> Any:
    """Return an integer or a pointer as a pointer to `kind`."""
    cast = build.inttoptr if address.type == INT64 else build.bitcast
    return cast(address, kind.as_pointer())


def transposed(build: Any, rows: list[Any]) -> list[Any]:
    """Return the columns of a square: blocks of it beside the diagonal change places."""
    size = LANES // 2
    while size:
        upper = [lane - size + LANES if lane & size else lane for lane in range(LANES)]
        lower = [lane + LANES if lane & size else lane + size for lane in range(LANES)]
        for row in range(LANES):
            if not row & size:
                a, b = rows[row], rows[row + size]
                rows[row] = select_lanes(build, a, b, upper)
                rows[row + size] = select_lanes(build, a, b, lower)
        size //= 2
    return rows


def panel_tile(kind: PanelKind) -> Any:
    """Return the function that adds to six rows of sums their products with a block of a panel.

    Its arguments are (x_NW, n, k, steps, panel_W, p, sum_RO, r). It reads rows n to n + 5 of x, the
    last where there are no more, and `steps` words of them from column k on; from p on the panel
    has `PANEL` scales and, for each word of x, `PANEL` words. Rows r to r + 5 of the sums, of
    `PANEL` columns, get scale times the sum of products.
    """

    @intrinsic
    def add(_, x_NW, n, k, steps, panel_W, p, sum_RO, r):  # noqa: ARG001
        intp = types.intp
        signature = types.void(x_NW, intp, intp, intp, panel_W, intp, sum_RO, intp)
        return signature, lambda *args: _emit_tile(kind, *args)

    return add


def _emit_tile(kind: PanelKind, context: Any, build: Any, signature: Any, args: Any) -> Any:
    """Emit a loop over the words of six rows of x, with all sums in registers."""
    x, panel, sums = (make_array(signature.args[i])(context, build, args[i]) for i in (0, 4, 6))
    n, k, steps, p, r = (args[i] for i in (1, 2, 3, 5, 7))
    N, pitch = cgutils.unpack_tuple(build, x.shape)
    last, rows = build.sub(N, INT64(1)), []
    for row in range(ROWS):
        index = build.add(n, INT64(row))
        index = build.select(build.icmp_signed("<", index, last), index, last)
        rows.append(build.gep(x.data, [build.add(build.mul(index, pitch), k)]))
    scale = build.gep(panel.data, [p])
    total = build.gep(sums.data, [build.mul(r, INT64(PANEL))])
    cells = list(product(range(ROWS), range(VECTORS)))
    variables = [cgutils.alloca_once_value(build, splat(SUMS, 0.0)) for _ in cells]
    with cgutils.for_range(build, steps, intp=INT64) as loop:
        first = build.mul(build.add(loop.index, INT64(1)), INT64(PANEL))
        w = [_vector(build, scale, first, v, WORDS) for v in range(VECTORS)]
        words = [spread(build, build.load(build.gep(row, [loop.index]))) for row in rows]
        for (row, v), variable in zip(cells, variables, strict=True):
            build.store(kind.add_products(build, build.load(variable), words[row], w[v]), variable)
    for (row, v), variable in zip(cells, variables, strict=True):
        place = _pointer(build, build.gep(total, [INT64(row * PANEL + v * LANES)]), SUMS)
        factor = _vector(build, scale, INT64(0), v, SUMS)
        before = build.load(place, align=WORD)
        build.store(fused(build, factor, build.load(variable), before), place, align=WORD)
    return context.get_dummy_value()


def _vector(build: Any, panel: Any, start: Any, index: int, kind: Any) -> Any:
    """Return a vector of a row of a panel."""
    place = build.gep(panel, [build.add(start, INT64(index * LANES))])
    return build.load(_pointer(build, place, kind), align=VECTOR)
