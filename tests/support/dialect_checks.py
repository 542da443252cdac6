"""Checks of arguments that raise NotTraceable unless nkipy and NumPy compute the same.

Tensors are duck-typed: an object with `read()`, which returns its values as a NumPy array, is a
tensor. Other arrays are constants, which nkipy writes into the program.

Source: nkipy 0.1 `core/ops/` and `core/backend/hlo.py` (promotion), and each idiom's HLO run on
XLA against NumPy.
"""

from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

FLOAT32, BOOL, INT32 = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int32)
INTEGERS = (INT32, np.dtype(np.uint32), np.dtype(np.uint8))
FLOATS = (FLOAT32, np.dtype(ml_dtypes.bfloat16))
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3)  # Trainium's E4M3, whose largest value is 240
NUMBERS = FLOATS + INTEGERS
SUPPORTED = (*NUMBERS, BOOL, FLOAT8)
CONSTANT_LIMIT = 64 * 1024  # bytes; every program that uses a constant has a copy
CUMSUM_LIMIT = 1024  # elements N: nkipy multiplies by a constant N x N triangle
TO_FLOAT32 = "x.astype(np.float32) first"


class NotTraceable(TypeError):  # noqa: N818  the name describes an idiom
    """An idiom that nkipy does not trace, or traces to a program with other results than NumPy."""

    def __init__(self, idiom: str, instead: str) -> None:
        super().__init__(f"{idiom} does not trace faithfully; write {instead}")
        self.idiom, self.instead = idiom, instead


def is_tensor(value: Any) -> bool:
    """Return whether `value` would be a tensor of nkipy in a traced program."""
    return hasattr(type(value), "read")


def check_dtype(dtype: Any) -> np.dtype:
    """Return `dtype` as a NumPy dtype; raise NotTraceable if nkipy does not trace it."""
    if isinstance(dtype, type) and dtype in {bool, int, float}:  # nkipy reads all as float32
        raise NotTraceable(f"the dtype {dtype.__name__}", "np.bool_, np.int32 or np.float32")
    if np.dtype(dtype) not in SUPPORTED:
        raise NotTraceable(f"{np.dtype(dtype)}", f"one of {', '.join(map(str, SUPPORTED))}")
    return np.dtype(dtype)


def check_operand(operand: Any) -> None:
    """Raise NotTraceable unless `operand` is a tensor, a scalar or a small constant."""
    if isinstance(operand, bool | int | float):
        return
    if not hasattr(operand, "dtype"):
        raise NotTraceable(f"a {type(operand).__name__} as an operand", "np.array(..., np.float32)")
    check_dtype(operand.dtype)
    if isinstance(operand, np.ndarray) and operand.nbytes > CONSTANT_LIMIT:
        raise NotTraceable(f"a constant of {operand.nbytes} bytes", "an argument or smaller parts")


def promoted(operands: Iterable[Any]) -> np.dtype:
    """Return the promoted dtype of `operands`, which must be the same in NumPy and nkipy."""
    dtypes, scalars = set(), []
    for operand in operands:
        check_operand(operand)
        if isinstance(operand, bool | int | float):  # np.float64 is a float: weak, as in nkipy
            scalars.append(operand.item() if isinstance(operand, np.float64) else operand)
        else:
            dtypes.add(np.dtype(operand.dtype))
    strong = dtypes - {BOOL} or dtypes
    if len(strong) != 1 and strong != set(FLOATS):
        raise NotTraceable(f"{' and '.join(sorted(map(str, strong)))} together", "astype first")
    traced = FLOAT32 if strong == set(FLOATS) else strong.pop()
    if scalars and np.result_type(*dtypes, *scalars) != traced:  # NumPy promotes to a wider dtype
        raise NotTraceable(f"{traced} with the Python scalar {scalars[0]!r}", TO_FLOAT32)
    return traced


def together(dtypes: tuple[np.dtype, ...], instead: str = TO_FLOAT32) -> Callable[..., None]:
    """Return a check that the promoted dtype of all operands is among `dtypes`."""

    def check(*operands: Any) -> None:
        dtype = promoted(operands)
        if dtype not in dtypes:
            raise NotTraceable(f"{dtype}", instead)

    return check


def alone(dtypes: tuple[np.dtype, ...], instead: str = TO_FLOAT32) -> Callable[..., None]:
    """Return a check that the dtype of the first argument, a tensor, is among `dtypes`."""

    def check(x: Any, *_: Any, **__: Any) -> None:
        if x.dtype not in dtypes:
            raise NotTraceable(f"{x.dtype}", instead)

    return check


def check_equal_dtypes(parts: Iterable[Any]) -> None:
    """Raise NotTraceable unless every part that has a dtype has the same; np.float64 is weak."""
    strong = (part for part in parts if not isinstance(part, bool | int | float))
    dtypes = sorted({str(part.dtype) for part in strong})
    if len(dtypes) > 1:
        raise NotTraceable(f"unequal dtypes ({', '.join(dtypes)})", "astype first")


def check_finite(x: Any) -> None:
    """Raise NotTraceable if `x` holds NaN or infinity."""
    if not np.isfinite(x.read().astype(np.float32)).all():
        raise NotTraceable("NaN or infinity, which nkipy multiplies by 0,", "ops.full or np.where")


def check_cast(x: Any, dtype: Any) -> None:
    """Raise NotTraceable if XLA would cast a value of `x` differently than NumPy."""
    if check_dtype(dtype) in INTEGERS and x.dtype in (*FLOATS, FLOAT8):
        limits, wide = np.iinfo(dtype), x.read().astype(np.float64)
        if not np.all((wide > limits.min - 1) & (wide < limits.max + 1)):
            raise NotTraceable(f"a cast to {np.dtype(dtype)} out of its range", "np.clip first")


def check_clip(x: Any, low: Any, high: Any) -> None:
    together(NUMBERS)(x, *(bound for bound in (low, high) if bound is not None))


def check_sum(x: Any, *_: Any, dtype: Any = None, **__: Any) -> None:
    alone((FLOAT32, *INTEGERS))(x)
    if x.dtype in INTEGERS and dtype is None:  # NumPy widens to 64 bits
        raise NotTraceable(f"{x.dtype} without dtype=", f"dtype=np.{x.dtype}")
    if dtype is not None and check_dtype(dtype) != x.dtype:  # nkipy ignores it
        raise NotTraceable(f"{x.dtype} with another dtype=", "x.astype(dtype) first")


def check_cumsum(x: Any, axis: int | None = None) -> None:
    alone((FLOAT32,))(x)
    check_finite(x)
    N = x.size if axis is None else x.shape[axis]
    if N > CUMSUM_LIMIT:
        raise NotTraceable(f"{N} elements, a constant of {N} x {N},", "sums of blocks, or doubling")


def check_argument(x: Any, *_: Any, **__: Any) -> None:
    alone(FLOATS)(x)
    if np.isnan(x.read().astype(np.float32)).any():
        raise NotTraceable("NaN, which gives an index past the end,", "np.where(np.isnan(x), ...)")


def check_full_like(x: Any, value: Any, dtype: Any = None) -> None:
    check_new_like(x, dtype)
    if not isinstance(value, bool | int | float | np.generic):
        raise NotTraceable("a value that is no scalar", "np.broadcast_to")


def check_new_like(x: Any, dtype: Any = None) -> None:
    check_finite(x)
    if dtype is not None:
        check_dtype(dtype)


def check_where(condition: Any, *branches: Any) -> None:
    if len(branches) != 2:
        raise NotTraceable("a condition alone", "np.where(condition, x, y)")
    check_operand(condition)
    promoted(branches)
    check_equal_dtypes(branches)


def check_concatenate(parts: Any, axis: Any = 0) -> None:
    for part in parts:
        check_operand(part)
    check_equal_dtypes(parts)
    if not isinstance(axis, int):
        raise NotTraceable(f"axis={axis!r}", "an integer axis")


def check_stack(parts: Any, axis: Any = 0) -> None:
    if not all(map(is_tensor, parts)):
        raise NotTraceable("constants", "ops.constant(x, array)")
    check_concatenate(parts, axis)


def check_split(x: Any, sections: Any, axis: int = 0) -> None:
    bounds = [0] if isinstance(sections, int) else [0, *sections, x.shape[axis]]
    if not all(isinstance(b, int | np.integer) for b in bounds) or bounds != sorted(bounds):
        raise NotTraceable(
            f"the split indices {bounds[1:-1]}", "ascending integers within the axis"
        )


def check_repeat(_: Any, repeats: Any, *__: Any, **___: Any) -> None:
    if not isinstance(repeats, int | np.integer):
        raise NotTraceable("counts that are no integer", "one Python integer, or np.take")


def check_pad(_: Any, __: Any, mode: str = "constant", constant_values: Any = 0) -> None:
    if mode not in ("constant", "edge") or not np.isscalar(constant_values):
        raise NotTraceable(f"mode {mode!r}", 'mode "constant" with one scalar, or "edge"')
