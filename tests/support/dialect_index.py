"""Checks of indices that raise NotTraceable unless nkipy and NumPy access the same rows.

nkipy clamps negative and out-of-range indices in reads and drops such writes, ignores the start of
a slice beside a written index, and neither casts nor broadcasts written values.

Source: nkipy 0.1 `NKIPyTensorRef.__getitem__` and `__setitem__`, `core/ops/_hlo_impls.py`.
"""

from typing import Any

import numpy as np

from tests.support.dialect_checks import (
    BOOL,
    NotTraceable,
    check_equal_dtypes,
    check_operand,
    is_tensor,
)

INDICES = (np.dtype(np.int32), np.dtype(np.uint32))
ROWS = "x[rows] with one 1-D int32 tensor of flat rows"


def check_index(x: Any, index: Any) -> list[Any]:
    """Return `index` by axis, without new axes; raise NotTraceable if nkipy reads other rows."""
    parts = _by_axis(x, index)
    arrays = [(axis, part) for axis, part in enumerate(parts) if _is_array(part)]
    if len(arrays) > 1:
        raise NotTraceable("x[i, j] with two tensor indices", f"{ROWS}, or np.take_along_axis")
    for axis, part in arrays:
        check_rows(part, x.shape[axis])
        if part.ndim != 1:
            raise NotTraceable(f"x[index] with a {part.ndim}-D index", f"{ROWS}, or np.take")
    return parts


def check_write_index(x: Any, index: Any) -> None:
    """Raise NotTraceable if `x[index] = value` writes other rows in nkipy."""
    if any(part is None for part in _tuple(index)):
        raise NotTraceable("x[None, ...] = value", "np.reshape(value, ...)")
    for axis, part in enumerate(check_index(x, index)):
        _check_written_part(part, x.shape[axis], beside=has_tensor(index))


def check_written(x: Any, index: Any, value: Any, selected: tuple[int, ...]) -> None:
    """Raise NotTraceable if nkipy would have to cast or broadcast `value` to `selected`."""
    if isinstance(value, np.generic):
        raise NotTraceable("x[...] = NumPy scalar", "a Python scalar")
    if isinstance(value, bool | int | float) and has_tensor(index):
        raise NotTraceable("x[rows] = scalar", "ops.full(x, shape, scalar, x.dtype)")
    if not isinstance(value, bool | int | float):
        _check_values(x, value, selected)


def has_tensor(index: Any) -> bool:
    """Return whether a part of `index` is a tensor."""
    return any(map(is_tensor, _tuple(index)))


def check_take(x: Any, index: Any, axis: Any = None) -> None:
    if not is_tensor(x):
        raise NotTraceable("a constant at tensor indices", "ops.constant(index, array) first")
    if not isinstance(axis, int):
        raise NotTraceable(f"axis={axis!r}", "an integer axis")
    check_rows(index, x.shape[axis])


def check_take_along_axis(x: Any, index: Any, axis: Any = -1) -> None:
    check_take(x, index, axis)
    _check_off_axis(x, index, axis, broadcast=1)


def check_put_along_axis(x: Any, index: Any, value: Any, axis: Any = None) -> None:
    check_take(x, index, axis)
    _check_off_axis(x, index, axis)
    _check_unique(index, x.shape[axis], axis)
    if not isinstance(value, bool | int | float):
        _check_values(x, value, index.shape)


def check_rows(index: Any, length: int) -> None:
    """Raise NotTraceable unless `index` holds int32 or uint32 from 0 to `length` - 1."""
    if not hasattr(index, "dtype"):
        raise NotTraceable(f"a {type(index).__name__} index", ROWS)
    if index.dtype == BOOL:
        raise NotTraceable("a boolean index", "np.where(mask, x, 0.0)")
    if index.dtype not in INDICES or index.ndim == 0:
        raise NotTraceable(f"a {index.ndim}-D index of {index.dtype}", ROWS)
    check_operand(index)
    row = _values(index)
    if row.size and not 0 <= row.min() <= row.max() < length:
        raise NotTraceable(
            f"an index from {row.min()} to {row.max()} into {length} rows", "np.clip or np.where"
        )


def _by_axis(x: Any, index: Any) -> list[Any]:
    parts: list[Any] = []
    for part in _tuple(index):
        _check_part(part)
        if part is Ellipsis:
            named = sum(other is not None and other is not Ellipsis for other in _tuple(index))
            parts += [slice(None)] * (x.ndim - named)
        elif part is not None:
            parts.append(part)
    return parts


def _check_part(part: Any) -> None:
    if isinstance(part, slice):
        for bound in (part.start, part.stop, part.step):
            if bound is not None and not isinstance(bound, int | np.integer):
                raise NotTraceable(
                    "x[tensor:tensor]", "x[start + np.arange(n, dtype=np.int32)], start 1-D"
                )
    elif isinstance(part, bool | np.bool_ | list | tuple | float):
        raise NotTraceable(f"a {type(part).__name__} index", ROWS)


def _check_written_part(part: Any, length: int, *, beside: bool) -> None:
    """Check one axis of a write; `beside`: some axis has a tensor index."""
    if isinstance(part, slice):
        _check_written_slice(part, length, beside=beside)
    elif is_tensor(part):
        _check_unique(part, length, axis=0)
    elif isinstance(part, np.ndarray):
        raise NotTraceable("x[constant] = value", "ops.constant(x, rows), or a slice")
    elif beside:
        raise NotTraceable("x[0, rows] = value", "x[:1, rows] = value of the same rank")


def _check_written_slice(part: slice, length: int, *, beside: bool) -> None:
    start, stop, step = part.indices(length)
    bounds = [bound for bound in (part.start, part.stop) if bound is not None]
    if step < 1 or start > stop or any(abs(bound) > length for bound in bounds):
        raise NotTraceable(f"x[{part.start}:{part.stop}:{step}] = value", "bounds within x")
    if beside and (start, step) != (0, 1):
        raise NotTraceable("x[1:, rows] = value, written from 0 on,", ROWS)


def _check_unique(index: Any, length: int, axis: int) -> None:
    """Raise NotTraceable if a row other than the last, the trash row, is written twice."""
    row = np.sort(_values(index).astype(np.int64), axis=axis)
    earlier = np.take(row, np.arange(row.shape[axis] - 1), axis=axis)
    if ((np.diff(row, axis=axis) == 0) & (earlier != length - 1)).any():
        raise NotTraceable("a write to one row twice", "unique rows; only the last may repeat")


def _check_values(x: Any, value: Any, shape: tuple[int, ...]) -> None:
    check_operand(value)
    check_equal_dtypes([x, value])
    if value.shape != shape:
        raise NotTraceable(f"a write of {value.shape} to {shape}", "np.broadcast_to(value, ...)")


def _check_off_axis(x: Any, index: Any, axis: int, broadcast: int | None = None) -> None:
    """Check that `index` is as long as `x`, or `broadcast`, on every axis but `axis`."""
    same_rank = index.ndim == x.ndim
    if not same_rank or any(
        length not in (whole, broadcast)
        for other, (length, whole) in enumerate(zip(index.shape, x.shape, strict=True))
        if other != axis % x.ndim
    ):
        raise NotTraceable("an index that broadcasts", "np.broadcast_to(index, ...) first")


def _tuple(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _is_array(part: Any) -> bool:
    return is_tensor(part) or isinstance(part, np.ndarray)


def _values(index: Any) -> np.ndarray:
    return index.read() if is_tensor(index) else index
