"""Words of 32 bits of a stored weight, four FP8 codes or two bfloat16, as vectors of float32.

A vector of words is a vector of weights for each place in a word. Elements would have to be widened
one by one, a third more instructions: rather is x put `interleave_words`, once.

Source: LLVM Language Reference: vectors (lanes that a machine lacks are split, so no instruction
set is assumed). E4M3 as float32 by shifts and a mask: see `compiled_matmul`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir

__all__ = [
    "BFLOAT16", "FLOAT8", "FLOAT32", "LANES", "LINE", "SUMS", "WORD", "WORDS", "ElementFormat",
    "all_lanes", "interleave_words",
]  # fmt: skip

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8  # of float32; a power of two
LINE = 64  # bytes of a weight's row read at one time
WORD = 4  # bytes

SUMS = ir.VectorType(ir.FloatType(), LANES)
WORDS, HALVES = (ir.VectorType(ir.IntType(32 // k), LANES * k) for k in (1, 2))


class ElementFormat(NamedTuple):
    """How a weight is stored: bytes of an element, and from words to their elements as float32."""

    size: int
    decoded: Callable[[Any, Any], list[Any]]


def interleave_words(x_NI: np.ndarray, size: int) -> np.ndarray:
    """Return `x_NI` in the order of `tile` for elements of `size` bytes; what is no line stays."""
    N, each, end = len(x_NI), WORD // size, x_NI.shape[1] * size // LINE * LINE // size
    words, y_NI = end // (LANES * each), x_NI.copy()
    by_place = np.reshape(x_NI[:, :end], (N, words, LANES, each)).swapaxes(2, 3)
    np.reshape(y_NI[:, :end], by_place.shape)[:] = by_place
    return y_NI


def all_lanes(kind: Any, value: float) -> Any:
    """Return a constant vector of that kind."""
    return ir.Constant(kind, [value] * kind.count)


def _of_float8(build: Any, words: Any) -> list[Any]:
    """Return codes as float32, 2^120 too small: sign, exponent and mantissa where they belong."""
    halves, four = build.bitcast(words, HALVES), all_lanes(HALVES, 4)
    even = _halves(build, build.ashr(build.shl(halves, all_lanes(HALVES, 8)), four))
    odd = _halves(build, build.ashr(halves, four))
    return [_masked(build, word, 0x87F00000) for word in (even[0], odd[0], even[1], odd[1])]


def _of_bfloat16(build: Any, words: Any) -> list[Any]:
    return [_masked(build, half, 0xFFFF0000) for half in _halves(build, words)]


def _halves(build: Any, vector: Any) -> list[Any]:
    """Return words whose upper halves are the lower and the upper ones of `vector`."""
    words = build.bitcast(vector, WORDS)
    return [build.shl(words, all_lanes(WORDS, 16)), words]


def _masked(build: Any, words: Any, mask: int) -> Any:
    return build.bitcast(build.and_(words, all_lanes(WORDS, mask)), SUMS)


FLOAT8 = ElementFormat(1, _of_float8)
BFLOAT16 = ElementFormat(2, _of_bfloat16)
FLOAT32 = ElementFormat(4, lambda build, words: [build.bitcast(words, SUMS)])
