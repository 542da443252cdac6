"""The inner tile of the compiled matmul, as LLVM vectors: 1 to 4 rows of x by 4 of a weight.

`loops` sums with it. Compilers vectorise such sums, but do not prefetch within them, and
a weight's next rows lie where hardware prefetchers do not reach.

A weight is read as 32-bit words, of four codes of a byte, two bfloat16 or one float32. A vector of
words gives a vector of weights for each position in a word. Widening the elements one by one would
take a third more instructions; instead `interleave_words` puts x into the order of the words, once.

Source: LLVM Language Reference: vectors (lanes that a machine lacks are split, so no instruction
set is assumed) and `llvm.prefetch`. docs/decisions/0011 has the figures.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

__all__ = [
    "COLUMNS", "HALVES", "LANES", "LINE", "SUMS", "WORD", "WORDS", "Decoder", "ElementFormat",
    "add_lanes", "fused", "interleave_words", "masked", "pointer", "prefetch", "select_lanes",
    "splat", "split_halves", "spread", "tile",
]  # fmt: skip

COLUMNS = 4  # of the product, which are rows of the weight
HOST = binding.get_host_cpu_features().flatten()
FEATURES = HOST if config.CPU_FEATURES is None else config.CPU_FEATURES  # NUMBA_CPU_FEATURES
LANES = 16 if "+avx512f" in FEATURES.split(",") else 8  # of float32; a power of two
LINE = 64  # bytes of a weight's row read at a time
WORD = 4  # bytes
READ, INTO_SECOND_CACHE, DATA = 0, 2, 1  # of llvm.prefetch

BIT, INT8, INT32, INT64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
CODES = ir.VectorType(INT8, LINE)
SUMS = ir.VectorType(ir.FloatType(), LANES)
WORDS, HALVES = (ir.VectorType(ir.IntType(32 // k), LANES * k) for k in (1, 2))


Decoder = Callable[[Any, Any], list[Any]]
"""A function from an IR builder and a vector of words to a float32 vector for each position in a
word."""


class ElementFormat(NamedTuple):
    """Decoders of a weight's elements.

    Attributes
    ----------
    size
        Bytes of an element.
    decode
        Decoder of every element but NaN.
    decode_one
        Inlined function from one element to float32, for what is left of a row.
    decode_normal
        Faster decoder of lines whose codes, without their signs, are all in `normal_codes`; None
        where there is none.
    normal_codes
        Codes without their signs that `decode_normal` decodes.
    nan_code
        The code without its sign that is NaN, and no other is larger; -1 where none is.
    """

    size: int
    decode: Decoder
    decode_one: Any
    decode_normal: Decoder | None = None
    normal_codes: range = range(0)
    nan_code: int = -1


def interleave_words(x_NI: np.ndarray, size: int) -> np.ndarray:
    """Return `x_NI` in the order of `tile` for elements of `size` bytes.

    Columns beyond the last whole line of the weight keep their places.
    """
    N, per_word, end = len(x_NI), WORD // size, x_NI.shape[1] * size // LINE * LINE // size
    if per_word == 1:
        return x_NI
    vectors, y_NI = end // (LANES * per_word), x_NI.copy()
    by_position = np.reshape(x_NI[:, :end], (N, vectors, LANES, per_word)).swapaxes(2, 3)
    np.reshape(y_NI[:, :end], by_position.shape)[:] = by_position
    return y_NI


def tile(element_format: ElementFormat, rows: int) -> Any:
    """Return the compiled function that multiplies `rows` rows of x by four rows of a weight.

    Its arguments are (sum_N4, n, x_NI, w_OI, o, last, end): it reads rows n, n + 1, ... of x in
    the order of `interleave_words`, rows o to o + 3 of the weight but none beyond `last`, and
    columns 0 to `end`, a positive multiple of `LINE` bytes of the weight. It writes rows n, n + 1,
    ... of `sum_N4`, and returns whether it read the code that is NaN.
    """

    @intrinsic
    def add(_, sum_N4, n, x_NI, w_OI, o, last, end):  # noqa: ARG001
        intp = types.intp
        signature = types.boolean(sum_N4, intp, x_NI, w_OI, intp, intp, intp)
        return signature, lambda *args: _TileBuilder(element_format, rows, *args).emit()

    return add


class _TileBuilder:
    """LLVM IR builder of one tile: a loop over lines of a weight, its sums in registers."""

    def __init__(
        self,
        element_format: ElementFormat,
        rows: int,
        context: Any,
        build: Any,
        signature: Any,
        args: Any,
    ) -> None:
        self.element_format, self.rows, self.build = element_format, rows, build
        self.context, self.signature, self.args = context, signature, args
        _, n, _, _, o, last, self.end = args
        zero = INT64(0)
        self.n = [build.add(n, INT64(row)) for row in range(rows)]
        ahead = [build.add(o, INT64(column)) for column in range(2 * COLUMNS)]
        columns = [
            build.select(build.icmp_signed("<", column, last), column, last)
            for column in ahead[:COLUMNS]
        ]
        self.x = [self._address(2, row, zero) for row in self.n]
        self.w = [self._address(3, column, zero) for column in columns]
        self.next_w = [self._address(3, column, zero) for column in ahead[COLUMNS:]]

    def emit(self) -> Any:
        """Emit the loop and the stores of all sums; return whether a code is NaN."""
        build, before = self.build, self.build.block
        loop, done = build.append_basic_block("lines"), build.append_basic_block("done")
        build.branch(loop)
        build.position_at_end(loop)
        i = self._phi(INT64(0), before)
        sums = [self._phi(splat(SUMS, 0.0), before) for _ in range(self.rows * COLUMNS)]
        max_code = self._phi(splat(CODES, 0), before)
        self._prefetch(i)
        next_i = build.add(i, INT64(LINE // self.element_format.size))
        new_max_code, *new_sums = self._add_line(i, max_code, sums)
        for phi, value in zip([i, max_code, *sums], [next_i, new_max_code, *new_sums], strict=True):
            phi.add_incoming(value, build.block)
        build.cbranch(build.icmp_signed("<", next_i, self.end), loop, done)
        build.position_at_end(done)
        self._store(new_sums)
        reduce_max = self._intrinsic("llvm.vector.reduce.umax", INT8, CODES)
        largest = build.call(reduce_max, (new_max_code,))
        return build.icmp_unsigned("==", largest, INT8(self.element_format.nan_code))

    def _add_line(self, i: Any, max_code: Any, sums: list[Any]) -> list[Any]:
        """Return the largest code and `sums` after one line, by the faster decoder if it can."""
        build, element_format = self.build, self.element_format
        if element_format.decode_normal is None:
            return [max_code, *self._add_products(i, sums, element_format.decode)]
        codes = self._codes(i)
        normal, exact, added = map(build.append_basic_block, ("normal", "exact", "added"))
        build.cbranch(self._are_normal(codes), normal, exact)
        build.position_at_end(normal)
        after_normal = [max_code, *self._add_products(i, sums, element_format.decode_normal)]
        build.branch(added)
        build.position_at_end(exact)
        for code in codes:
            max_code = build.select(build.icmp_unsigned(">", max_code, code), max_code, code)
        after_exact = [max_code, *self._add_products(i, sums, element_format.decode)]
        build.branch(added)
        build.position_at_end(added)
        results = [self._phi(value, normal) for value in after_normal]
        for result, value in zip(results, after_exact, strict=True):
            result.add_incoming(value, exact)
        return results

    def _codes(self, i: Any) -> list[Any]:
        """Return a line's codes without their signs, a vector for each row of the weight."""
        sign_less = splat(CODES, 0x7F)
        return [self.build.and_(self._load(row, i, 0, CODES, 1), sign_less) for row in self.w]

    def _are_normal(self, codes: list[Any]) -> Any:
        """Return whether all `codes` are in `normal_codes`: one comparison of the differences."""
        build, (first, *_, last) = self.build, self.element_format.normal_codes
        above = [build.sub(code, splat(CODES, first)) for code in codes]  # wraps around below first
        largest = above[0]
        for vector in above[1:]:
            largest = build.select(build.icmp_unsigned(">", largest, vector), largest, vector)
        is_outside = build.icmp_unsigned(">", largest, splat(CODES, last - first))
        reduce_or = self._intrinsic("llvm.vector.reduce.or", BIT, is_outside.type)
        return build.not_(build.call(reduce_or, (is_outside,)))

    def _add_products(self, i: Any, sums: list[Any], decode: Decoder) -> list[Any]:
        """Return `sums` plus the products of one line, position by position in the words."""
        build, size, sums = self.build, self.element_format.size, sums.copy()
        for start in range(0, LINE // size, LANES * WORD // size):
            words = [self._load(address, i, start, WORDS, size) for address in self.w]
            w = [decode(build, word) for word in words]
            for position, row in product(range(WORD // size), range(self.rows)):
                x = self._load(self.x[row], i, start + position * LANES, SUMS, WORD)
                for column in range(COLUMNS):
                    index = row * COLUMNS + column
                    sums[index] = fused(build, x, w[column][position], sums[index])
        return sums

    def _prefetch(self, i: Any) -> None:
        """Prefetch the same line of the next rows; beyond the weight this has no effect."""
        for address in self.next_w:
            prefetch(self.build, self.build.gep(address, [i]))

    def _store(self, sums: list[Any]) -> None:
        """Add up the lanes of each sum, as many sums at a time as a vector has lanes."""
        for start in range(0, len(sums), LANES):
            part = sums[start : start + LANES]
            added = add_lanes(self.build, part)
            total = select_lanes(self.build, added, added, range(len(part)))
            row, column = divmod(start, COLUMNS)
            address = self._address(0, self.n[row], INT64(column))
            target = self.build.bitcast(address, total.type.as_pointer())
            self.build.store(total, target, align=WORD)

    def _phi(self, start: Any, before: Any) -> Any:
        phi = self.build.phi(start.type)
        phi.add_incoming(start, before)
        return phi

    def _load(self, address: Any, i: Any, offset: int, vector: Any, align: int) -> Any:
        start = self.build.gep(address, [self.build.add(i, INT64(offset))])
        return self.build.load(self.build.bitcast(start, vector.as_pointer()), align=align)

    def _address(self, argument: int, *index: Any) -> Any:
        array_type, build = self.signature.args[argument], self.build
        array = make_array(array_type)(self.context, build, self.args[argument])
        return cgutils.get_item_pointer(
            self.context, build, array_type, array, index, wraparound=False
        )

    def _intrinsic(self, name: str, return_type: Any, *arg_types: Any) -> Any:
        """Return the LLVM intrinsic `name`, overloaded for the vector type `arg_types[0]`."""
        return cgutils.get_or_insert_function(
            self.build.module,
            ir.FunctionType(return_type, arg_types),
            f"{name}.v{arg_types[0].count}{arg_types[0].element}",
        )


@intrinsic
def pointer(_, address):  # noqa: ARG001
    """Return an integer as the address of memory."""
    signature = types.voidptr(types.int64)
    return signature, lambda _, build, __, args: build.inttoptr(args[0], INT8.as_pointer())


def splat(vector: Any, value: float) -> Any:
    """Return a constant of type `vector` with `value` in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def fused(build: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a x b + c of float32 vectors, rounded once where the machine can."""
    signature = ir.FunctionType(SUMS, (SUMS, SUMS, SUMS))
    name = f"llvm.fmuladd.v{LANES}f32"
    return build.call(cgutils.get_or_insert_function(build.module, signature, name), (a, b, c))


def prefetch(build: Any, address: Any) -> None:
    """Prefetch the line at `address`; where there is no memory this has no effect."""
    pointer = INT8.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), (pointer, INT32, INT32, INT32))
    function = build.module.declare_intrinsic("llvm.prefetch", (pointer,), signature)
    flags = [INT32(flag) for flag in (READ, INTO_SECOND_CACHE, DATA)]
    build.call(function, (build.bitcast(address, pointer), *flags))


def spread(build: Any, value: Any) -> Any:
    """Return a vector with `value` in every lane."""
    vector = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = build.insert_element(vector, value, INT32(0))
    return select_lanes(build, first, first, [0] * LANES)


def select_lanes(build: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """Return the vector of some lanes of `a`, which are counted from 0, and `b`, which follow."""
    index = ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes))
    return build.shuffle_vector(a, b, index)


def add_lanes(build: Any, vectors: list[Any]) -> Any:
    """Return a vector that begins with the sums of each vector's lanes: up to `LANES` of them.

    Neighbouring lanes are added, of two vectors at a time, until each sum is in one lane; so the
    order of a sum does not depend on the others.
    """
    even, odd = range(0, 2 * LANES, 2), range(1, 2 * LANES, 2)
    while len(vectors) & (len(vectors) - 1):
        vectors = [*vectors, vectors[0]]
    for _ in range(LANES.bit_length() - 1):
        pairs = zip(vectors[::2], vectors[1::2] or vectors, strict=True)
        vectors = [
            build.fadd(select_lanes(build, a, b, even), select_lanes(build, a, b, odd))
            for a, b in pairs
        ]
    return vectors[0]


def split_halves(build: Any, vector: Any) -> list[Any]:
    """Return two vectors of words: their upper halves are the lower and the upper of `vector`."""
    words = build.bitcast(vector, WORDS)
    return [build.shl(words, splat(WORDS, 16)), words]


def masked(build: Any, words: Any, mask: int, bias: int = 0) -> Any:
    """Return the bits of `mask` of a vector of words, and those of `bias`, as float32."""
    bits = build.and_(words, splat(WORDS, mask))
    return build.bitcast(build.or_(bits, splat(WORDS, bias)) if bias else bits, SUMS)
