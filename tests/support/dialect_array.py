"""The strict array: a NumPy array with only the interface of nkipy's tensor.

Source: nkipy 0.1 `core/tensor.py` (`NKIPyTensorRef`).
"""

import dataclasses
from collections.abc import Callable
from functools import partialmethod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tests.support.dialect_checks import NotTraceable, check_cast, check_dtype
from tests.support.dialect_index import check_index, check_write_index, check_written
from tests.support.dialect_rules import check_call, instead_of

RETURN_INT32 = (np.argmax, np.argmin, np.count_nonzero)  # in nkipy; int64 in NumPy
METHODS = ("sum", "prod", "mean", "var", "std", "max", "min", "argmax", "argmin", "clip", "copy")
METHODS += ("squeeze", "swapaxes")
REFUSED = {
    "__bool__": ("a tensor as a condition", "np.where, or decide on the host"),
    "__int__": ("int(tensor)", "x.astype(np.int32)"),
    "__float__": ("float(tensor)", "x.astype(np.float32)"),
    "__complex__": ("complex(tensor)", "x.astype(np.float32)"),
    "__index__": ("a tensor as a Python integer", "a 1-D index tensor"),
    "__iter__": ("iteration, which never ends,", "for i in range(x.shape[0]): x[i]"),
    "__contains__": ("value in tensor", "np.any(x == value)"),
    "__array__": (
        "a tensor as an ndarray",
        "np.stack for np.array, ops.constant for array[tensor], ops.full for np.zeros",
    ),
}


class Strict(NDArrayOperatorsMixin):
    """An array that supports only what nkipy's tensor supports.

    A view, which shares memory with another tensor in NumPy, is a copy in nkipy. A view therefore
    cannot be written to, nor read after that other tensor, its owner, has been written to.
    """

    __slots__ = ("_array", "_owner", "_writes")

    def __init__(self, array: np.ndarray, owner: "Strict | None" = None) -> None:
        self._array, self._owner = array, owner
        self._writes = 0 if owner is None else owner._writes

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    T = property(np.transpose)

    def read(self) -> np.ndarray:
        """Return the values; raise NotTraceable if this is a view of a tensor written to since."""
        if self._owner is not None and self._owner._writes != self._writes:
            raise NotTraceable("a view read after its tensor was written", "a new view, or np.copy")
        return self._array

    def __array_function__(self, function: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        return self._computed(function, args, kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            raise NotTraceable(f"np.{ufunc.__name__}.{method}", "np.sum, np.max or x[rows] = y")
        return self._computed(ufunc, inputs, kwargs)

    def __getitem__(self, index: Any) -> "Strict":
        check_index(self, index)
        return _derived(self.read()[plain(index)], [self])

    def __setitem__(self, index: Any, value: Any) -> None:
        check_write_index(self, index)
        rows = plain(index)
        check_written(self, index, value, self.read()[rows].shape)
        self._count_write()
        self._array[rows] = plain(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols that NumPy and copy probe for
            raise AttributeError(name)
        raise _NoSuchAttributeError(f"x.{name}", instead_of(name))

    def __len__(self) -> int:
        return len(self._array)

    def __repr__(self) -> str:
        return f"Strict({self._array!r})"

    def astype(self, dtype: Any) -> "Strict":
        """Return a copy with `dtype`."""
        check_cast(self, dtype)
        return Strict(self.read().astype(dtype))

    def reshape(self, *shape: Any) -> "Strict":
        """Return `np.reshape(self, shape)`."""
        return np.reshape(self, shape[0] if isinstance(shape[0], tuple | list) else shape)

    def transpose(self, *axes: Any) -> "Strict":
        """Return `np.transpose(self, axes)`."""
        if axes and isinstance(axes[0], tuple | list):
            axes = axes[0]
        return np.transpose(self, axes or None)

    def ravel(self) -> "Strict":
        """Return `np.reshape(self, (-1,))`."""
        return np.reshape(self, (-1,))

    @staticmethod
    def _computed(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Check a call and return NumPy's result."""
        check_call(function, args, kwargs)
        if function is np.put_along_axis:
            args[0]._count_write()
        result = function(*(_weak(plain(arg)) for arg in args), **kwargs)
        if function in RETURN_INT32:
            result = np.asarray(result).astype(np.int32)
        operands = args[0] if isinstance(args[0], tuple | list) else args
        sources = [operand for operand in operands if isinstance(operand, Strict)]
        if isinstance(result, list):
            return [_derived(part, sources) for part in result]
        return None if result is None else _derived(result, sources)

    def _count_write(self) -> None:
        if self._owner is not None:
            raise NotTraceable("a write to a view", "to the tensor itself, or to np.copy(view)")
        self._writes += 1


class _NoSuchAttributeError(NotTraceable, AttributeError):
    """NotTraceable for a missing attribute, so that `hasattr` returns False."""


def _refusal(idiom: str, instead: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotTraceable(idiom, instead)

    return refuse


for _name, _advice in REFUSED.items():
    setattr(Strict, _name, _refusal(*_advice))
for _name in METHODS:
    setattr(Strict, _name, partialmethod(getattr(np, _name)))


def _weak(value: Any) -> Any:
    return value.item() if isinstance(value, np.float64) else value


def _derived(result: Any, sources: list[Strict]) -> Strict:
    """Return `result` as a tensor; if it shares memory with a source, it records its owner."""
    array = np.asarray(result)
    check_dtype(array.dtype)
    for source in sources:
        if np.may_share_memory(array, source._array):
            return Strict(array, source if source._owner is None else source._owner)
    return Strict(array)


def plain(value: Any) -> Any:
    """Return `value` with its strict arrays, also nested ones, replaced by their ndarrays."""
    return mapped(lambda leaf: leaf.read() if isinstance(leaf, Strict) else leaf, value)


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the tree `value` with `function` applied to every leaf; itself if none changes."""
    if isinstance(value, tuple | list):
        parts = [mapped(function, part) for part in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {name: mapped(function, part) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        new = mapped(function, parts)
        changed = {name: part for name, part in new.items() if part is not parts[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return function(value)
