"""Shape and dtype checks from tensor names: the ending is the axes, the noun is the dtype.

`x_BTD` has three axes, and every B of one call has the same length; `position_BT` is int32.
`checked` checks the arguments of a kernel against the names of its parameters.

Source: shape suffixes, N. Shazeer (2024), https://medium.com/@NoamShazeer/shape-suffixes.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from mimo_v2_flash.cpu.kv_codes import CODE_DTYPES

__all__ = ["axes_of", "check_dtypes", "check_shapes", "checked"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

SUFFIX = re.compile(r"_([a-z]*[A-Z1][A-Za-z1]*)$")
FLOATS = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16))
CACHED = (*FLOATS, *CODE_DTYPES)
INTEGERS = (np.dtype(np.int32),)
BOOLEANS = (np.dtype(np.bool_),)
MAX_SIGNATURES = 1024  # of a kernel, that are remembered
DTYPES = {
    "expert": INTEGERS,
    "k": CACHED,
    "mapping": INTEGERS,
    "position": INTEGERS,
    "rank": INTEGERS,
    "row": INTEGERS,
    "token": INTEGERS,
    "v": CACHED,
    "visible": BOOLEANS,
}


def axes_of(name: str) -> str:
    """Return the axis letters that end `name`, or an empty string if it names no tensor."""
    ending = SUFFIX.search(name)
    return ending[1] if ending else ""


def check_shapes(owner: str, tensors: dict[str, Any]) -> dict[str, int]:
    """Return the length of each axis letter in the names of `tensors`.

    Raises
    ------
    ValueError
        If a tensor's shape contradicts its name or another tensor's axes; the message names the
        kernel, the argument, its shape and what was expected.
    """
    lengths: dict[str, int] = {"1": 1}
    first: dict[str, str] = {"1": "its name"}
    for name, tensor in tensors.items():
        axes = axes_of(name)
        if not axes:
            continue
        shape = getattr(tensor, "shape", None)
        if shape is None or len(shape) != len(axes):
            actual = f"{len(shape)} ({shape})" if shape is not None else f"none: {type(tensor)}"
            raise ValueError(
                f"{owner}: {name} must have {len(axes)} axes ({', '.join(axes)}), got {actual}"
            )
        for letter, length in zip(axes, shape, strict=True):
            if lengths.setdefault(letter, length) != length:
                raise ValueError(
                    f"{owner}: {name} is {tuple(shape)}, but axis {letter} is {lengths[letter]} "
                    f"in {first[letter]}"
                )
            first.setdefault(letter, name)
    return lengths


def check_dtypes(owner: str, tensors: dict[str, Any]) -> None:
    """Raise ValueError if a tensor's dtype contradicts the last noun of its name."""
    for name, tensor in tensors.items():
        dtype = getattr(tensor, "dtype", None)  # none: a QuantizedTensor has several
        if not axes_of(name) or dtype is None:
            continue
        *_, noun, _ = name.split("_")
        expected = DTYPES.get(noun, FLOATS)
        if np.dtype(dtype) not in expected:
            allowed = " or ".join(str(kind) for kind in expected)
            raise ValueError(f"{owner}: {name} must be {allowed}, got {dtype}")


def checked(kernel: Kernel) -> Kernel:
    """Return `kernel` with a check of its arguments against the names of its parameters.

    Shapes and dtypes that were accepted once are not checked again: a check takes as long as a
    small kernel.
    """
    names = tuple(inspect.signature(kernel).parameters)
    accepted: set[Any] = set()

    @functools.wraps(kernel)
    def call(*args: Any, **kwargs: Any) -> Any:
        signature = (*map(_signature, args), *kwargs, *map(_signature, kwargs.values()))
        if signature not in accepted:
            tensors = dict(zip(names, args, strict=False)) | kwargs
            check_shapes(kernel.__name__, tensors)
            check_dtypes(kernel.__name__, tensors)
            if len(accepted) >= MAX_SIGNATURES:
                accepted.clear()
            accepted.add(signature)
        return kernel(*args, **kwargs)

    return call  # type: ignore[return-value]


def _signature(value: Any) -> tuple[Any, Any]:
    """Return all that the checks read of an argument."""
    return getattr(value, "shape", None), getattr(value, "dtype", None)
