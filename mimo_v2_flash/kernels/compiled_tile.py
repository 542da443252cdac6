"""The innermost tile of a product: one to four rows of x by four of a weight, in vectors.

What `compiled_loops` sums with. Compilers vectorise such sums, but cannot look ahead in memory on
the way, and a weight's next rows lie where the machine's own prefetching does not go.

Source: LLVM Language Reference: vectors (lanes that a machine lacks are split, so no instruction
set is assumed) and `llvm.prefetch`. docs/decisions/0011 has the figures.
"""

from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .compiled_words import FLOAT8, LANES, LINE, SUMS, WORD, WORDS, ElementFormat, all_lanes

__all__ = ["COLUMNS", "tile"]

COLUMNS = 4  # of the product, which are rows of the weight
READ, INTO_SECOND_CACHE, DATA = 0, 2, 1  # of llvm.prefetch

INT8, INT32, INT64 = (ir.IntType(bits) for bits in (8, 32, 64))
CODES = ir.VectorType(INT8, LINE)


def tile(element_format: ElementFormat, rows: int) -> Any:
    """Return the compiled function that sums up `rows` rows of x times four rows of a weight.

    It is called with (sum_N4L, n, x_NI, w_OI, o, last, end): rows n, n + 1, ... of x, `interleave_words`,
    rows o to o + 3 of the weight but none beyond `last`, and columns 0 to `end`, a positive
    multiple of `LINE` bytes of the weight. It writes `sum_N4L`, in each lane a part of the sum, and
    returns whether a code of FP8 that it saw is no number.
    """

    @intrinsic
    def add(_, sum_N4L, n, x_NI, w_OI, o, last, end):  # noqa: ARG001
        whole = types.intp
        signature = types.boolean(sum_N4L, whole, x_NI, w_OI, whole, whole, whole)
        return signature, lambda *given: _Tile(element_format, rows, *given).built()

    return add


class _Tile:
    """Writes one tile's code: a loop over lines of a weight, its sums in registers."""

    def __init__(
        self,
        element_format: ElementFormat,
        rows: int,
        context: Any,
        build: Any,
        signature: Any,
        given: Any,
    ) -> None:
        self.element_format, self.rows, self.build = element_format, rows, build
        self.context, self.signature, self.given = context, signature, given
        _, n, _, _, o, last, self.end = given
        zero = INT64(0)
        self.n = [build.add(n, INT64(row)) for row in range(rows)]
        ahead = [build.add(o, INT64(column)) for column in range(2 * COLUMNS)]
        columns = [
            build.select(build.icmp_signed("<", column, last), column, last)
            for column in ahead[:COLUMNS]
        ]
        self.x = [self._address(2, row, zero) for row in self.n]
        self.w = [self._address(3, column, zero) for column in columns]
        self.next = [self._address(3, column, zero) for column in ahead[COLUMNS:]]

    def built(self) -> Any:
        """Return whether a code is no number, after code that writes all sums."""
        build, before = self.build, self.build.block
        loop, done = build.append_basic_block("lines"), build.append_basic_block("done")
        build.branch(loop)
        build.position_at_end(loop)
        i = self._carried(INT64(0), before)
        sums = [self._carried(all_lanes(SUMS, 0.0), before) for _ in range(self.rows * COLUMNS)]
        most = self._carried(all_lanes(CODES, 0), before)
        self._look_ahead(i)
        later, step = self._summed(i, sums), LINE // self.element_format.size
        for carried, value in zip(
            [i, most, *sums],
            [build.add(i, INT64(step)), self._largest(i, most), *later],
            strict=True,
        ):
            carried.add_incoming(value, loop)
        build.cbranch(build.icmp_signed("<", i.incomings[1][0], self.end), loop, done)
        build.position_at_end(done)
        self._store(later)
        return self._is_nan(most.incomings[1][0])

    def _summed(self, i: Any, sums: list[Any]) -> list[Any]:
        """Return `sums` and the products of a line, place in a word by place."""
        build, size, sums = self.build, self.element_format.size, sums.copy()
        fused = self._function("llvm.fmuladd", SUMS, SUMS, SUMS, SUMS)
        for start in range(0, LINE // size, LANES * WORD // size):
            words = [self._load(address, i, start, WORDS, size) for address in self.w]
            w = [self.element_format.decoded(build, word) for word in words]
            for place, row in product(range(WORD // size), range(self.rows)):
                x = self._load(self.x[row], i, start + place * LANES, SUMS, WORD)
                for column in range(COLUMNS):
                    which = row * COLUMNS + column
                    sums[which] = build.call(fused, (x, w[column][place], sums[which]))
        return sums

    def _look_ahead(self, i: Any) -> None:
        """Ask for the same line of the next rows; beyond the weight nothing happens."""
        build, pointer = self.build, INT8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), (pointer, INT32, INT32, INT32))
        prefetch = build.module.declare_intrinsic("llvm.prefetch", (pointer,), kind)
        how = [INT32(flag) for flag in (READ, INTO_SECOND_CACHE, DATA)]
        for address in self.next:
            build.call(prefetch, (build.bitcast(build.gep(address, [i]), pointer), *how))

    def _largest(self, i: Any, most: Any) -> Any:
        """Return the largest codes so far, sign aside: 0x7F is no number."""
        if self.element_format is not FLOAT8:
            return most
        build = self.build
        for address in self.w:
            code = build.and_(self._load(address, i, 0, CODES, 1), all_lanes(CODES, 0x7F))
            most = build.select(build.icmp_unsigned(">", most, code), most, code)
        return most

    def _is_nan(self, most: Any) -> Any:
        if self.element_format is not FLOAT8:
            return ir.Constant(ir.IntType(1), 0)
        largest = self._function("llvm.vector.reduce.umax", INT8, CODES)
        return self.build.icmp_unsigned("==", self.build.call(largest, (most,)), INT8(0x7F))

    def _store(self, sums: list[Any]) -> None:
        for place, value in enumerate(sums):
            row, column = divmod(place, COLUMNS)
            address = self._address(0, self.n[row], INT64(column), INT64(0))
            target = self.build.bitcast(address, SUMS.as_pointer())
            self.build.store(value, target, align=WORD)

    def _carried(self, start: Any, before: Any) -> Any:
        phi = self.build.phi(start.type)
        phi.add_incoming(start, before)
        return phi

    def _load(self, address: Any, i: Any, offset: int, kind: Any, align: int) -> Any:
        start = self.build.gep(address, [self.build.add(i, INT64(offset))])
        return self.build.load(self.build.bitcast(start, kind.as_pointer()), align=align)

    def _address(self, which: int, *index: Any) -> Any:
        kind, build = self.signature.args[which], self.build
        array = make_array(kind)(self.context, build, self.given[which])
        return cgutils.get_item_pointer(self.context, build, kind, array, index, wraparound=False)

    def _function(self, name: str, answer: Any, *given: Any) -> Any:
        """Return the LLVM function of that name for vectors of the kind first given."""
        letter = "f" if given[0] is SUMS else "i"
        width = 32 if given[0] is SUMS else 8
        full = f"{name}.v{given[0].count}{letter}{width}"
        return cgutils.get_or_insert_function(
            self.build.module, ir.FunctionType(answer, given), full
        )
