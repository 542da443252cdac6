"""Strict arrays: they compute with NumPy at once and refuse what nkipy would not trace faithfully.

    y = strictly(kernel)(x, w)      # NumPy's result, or NotTraceable with what to write instead

Every kernel test runs on plain arrays and on strict ones, and so needs no nkipy to know that a
kernel traces. As values are there, they are looked at too: indices within range, rows written
once. What only nkipy can tell (compile time, memory, collectives) is left to its own tests.

`dialect_rules` lists the functions, `dialect_checks` and `dialect_index` look at arguments,
`dialect_array` is the array.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash.kernels import ops
from tests.support.dialect_array import Strict, mapped, plain
from tests.support.dialect_checks import FLOATS, NotTraceable, check_dtype

__all__ = ["NotTraceable", "Strict", "plain", "strict", "strictly"]


def strict(array: np.ndarray) -> Strict:
    """Return `array` as a strict one on the same memory.

    Raises
    ------
    NotTraceable
        If it has no axes, or a dtype that programs do not take, such as float64 or int64.
    """
    check_dtype(array.dtype)
    if array.ndim == 0:
        raise NotTraceable("a tensor without axes", "np.reshape(x, (1,))")
    return Strict(array)


def strictly(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return `kernel`, computing with strict arrays, from plain arguments to plain results.

    Arrays are made strict wherever they are: in tuples, lists, dicts, NamedTuples and
    dataclasses. What the kernel writes, the caller's arrays hold.
    """

    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = mapped(_strict_leaf, (args, kwargs))
        return plain(mapped(_returned, kernel(*args, **kwargs)))

    return call


def _strict_leaf(leaf: Any) -> Any:
    return strict(leaf) if isinstance(leaf, np.ndarray) else leaf


def _returned(leaf: Any) -> Any:
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
            raise NotTraceable(idiom, "2-D float32 or bfloat16, or BlockScaled weights")
    return Strict(ops.matmul.dispatch(np.ndarray)(plain(x), plain(w)))


def _top_k(x: Strict, k: int) -> tuple[Strict, Strict]:
    if x.dtype not in FLOATS or not 1 <= k <= x.shape[-1]:
        raise NotTraceable(f"top {k} of {x.dtype} {x.shape}", "a float tensor, k within its axis")
    value, index = ops.top_k.dispatch(np.ndarray)(plain(x), k)
    return Strict(value), Strict(index)


def _constant(_: Strict, array: np.ndarray) -> Strict:
    return strict(np.array(array))


def _full(_: Strict, shape: tuple[int, ...], value: float, dtype: Any) -> Strict:
    return strict(np.full(shape, value, check_dtype(dtype)))


def _put_rows(buffer: Strict, row_N: Strict, x: Strict) -> None:
    mapped(_no_constant, (row_N, x))
    buffer[row_N] = x


def register() -> None:
    """Teach the kernels' operations to compute with strict arrays."""
    ops.matmul.register(Strict, _matmul)
    ops.top_k.register(Strict, _top_k)
    ops.constant.register(Strict, _constant)
    ops.full.register(Strict, _full)
    ops.put_rows.register(Strict, _put_rows)


register()
