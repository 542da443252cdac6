"""The dialect: strict arrays that compute with NumPy and refuse what nkipy would trace wrongly.

    y = strictly(kernel)(x, w)      # NumPy's result, or NotTraceable with a replacement

Every kernel test runs on plain arrays and on strict ones, so that it shows without nkipy that a
kernel traces. Strict arrays have values, and these are checked too: indices are within range, rows
are written once. Compile time, memory and collectives are left to the tests that need nkipy.

`dialect_rules` lists the allowed functions, `dialect_checks` and `dialect_index` check arguments,
`dialect_array` has the array class.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash.execution.hlo_lint import LARGEST_CONSTANT
from mimo_v2_flash.kernels import ops
from tests.support.dialect_array import Strict, mapped, plain
from tests.support.dialect_checks import FLOATS, NotTraceable, check_dtype

__all__ = ["NotTraceable", "Strict", "plain", "strict", "strictly"]


def strict(array: np.ndarray) -> Strict:
    """Return a strict array on the memory of `array`.

    Raises
    ------
    NotTraceable
        If `array` has no axes, or a dtype that programs do not take, such as float64 or int64.
    """
    check_dtype(array.dtype)
    if array.ndim == 0:
        raise NotTraceable("a tensor without axes", "np.reshape(x, (1,))")
    return Strict(array)


def strictly(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return `kernel`, wrapped to compute with strict arrays on plain arguments and results.

    Arrays are made strict also inside tuples, lists, dicts, NamedTuples and dataclasses. The
    kernel's in-place writes change the caller's arrays.
    """

    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = mapped(_strict_leaf, (args, kwargs))
        return plain(mapped(_checked_result, kernel(*args, **kwargs)))

    return call


def _strict_leaf(leaf: Any) -> Any:
    return strict(leaf) if isinstance(leaf, np.ndarray) else leaf


def _checked_result(leaf: Any) -> Any:
    if isinstance(leaf, Strict) and leaf.ndim == 0:
        raise NotTraceable("a result without axes", "keepdims=True or np.reshape(x, (1,))")
    return _no_constant(leaf)


def _no_constant(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        raise NotTraceable("a constant as operand or result", "ops.constant(x, array)")
    return leaf


def _matmul(x: Strict, w: Any) -> Strict:
    mapped(_no_constant, w)
    for operand in (x, w):
        if isinstance(operand, Strict) and (operand.dtype not in FLOATS or operand.ndim < 2):
            idiom = f"ops.matmul of {operand.ndim}-D {operand.dtype}"
            raise NotTraceable(idiom, "2-D float32 or bfloat16, or a QuantizedTensor")
    return Strict(ops.matmul.dispatch(np.ndarray)(plain(x), plain(w)))


def _top_k(x: Strict, k: int) -> tuple[Strict, Strict]:
    if x.dtype not in FLOATS or not 1 <= k <= x.shape[-1]:
        raise NotTraceable(f"top {k} of {x.dtype} {x.shape}", "a float tensor, k within its axis")
    value, index = ops.top_k.dispatch(np.ndarray)(plain(x), k)
    return Strict(value), Strict(index)


def _arange(_: Strict, count: int) -> Strict:
    return strict(np.arange(count, dtype=np.int32))


def _constant(_: Strict, array: np.ndarray) -> Strict:
    if array.nbytes > LARGEST_CONSTANT:
        raise NotTraceable(f"a constant of {array.nbytes} bytes", "ops.arange, or an argument")
    return strict(np.array(array))


def _full(_: Strict, shape: tuple[int, ...], value: float, dtype: Any) -> Strict:
    return strict(np.full(shape, value, check_dtype(dtype)))


def _put_rows(buffer: Strict, row_N: Strict, x: Strict) -> None:
    mapped(_no_constant, (row_N, x))
    buffer[row_N] = x


def register() -> None:
    """Register implementations of the kernels' operations for strict arrays."""
    ops.matmul.register(Strict, _matmul)
    ops.top_k.register(Strict, _top_k)
    ops.arange.register(Strict, _arange)
    ops.constant.register(Strict, _constant)
    ops.full.register(Strict, _full)
    ops.put_rows.register(Strict, _put_rows)


register()
