"""Calls of compiled functions: their arrays, their cache key and their outputs.

All backends that trace programs share this module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature as signature_of
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .pytree import tree_arrays, tree_map, tree_signature

if TYPE_CHECKING:
    from .tracing import TracedProgram

__all__ = ["ProgramArray", "ProgramCall", "check_on_device", "fill_outputs"]


class ProgramArray:
    """An array on a device, which programs may update in place.

    Attributes
    ----------
    handle
        The runtime's array.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self.handle.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype."""
        return np.dtype(self.handle.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class ProgramCall:
    """A function call, with the arguments by parameter name, one of which may be donated."""

    function: Callable[..., Any]
    donate: str | None
    arguments: dict[str, Any]

    @classmethod
    def of(
        cls, function: Callable[..., Any], donate: str | None, *args: Any, **kwargs: Any
    ) -> "ProgramCall":
        """Return the call `function(*args, **kwargs)`.

        Parameters
        ----------
        function : callable
            The function.
        donate : str or None
            Name of the argument whose buffer the output takes.
        *args, **kwargs
            Its arguments.
        """
        return cls(function, donate, signature_of(function).bind(*args, **kwargs).arguments)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """Arrays among the arguments, by path."""
        return tree_arrays(self.arguments)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Key of the call's program: the function and the signature of the arguments."""
        return self.function, self.donate, tree_signature(self.arguments)


def check_on_device(traced: "TracedProgram", arrays: Mapping[str, Any], kind: type) -> None:
    """Raise TypeError if a buffer that the program updates in place is not on the device.

    The caller would never see the update: the program would write into a copy. Arrays on the
    device are of type `kind`. A donated input may be a host array: what overwrites it is returned.

    Parameters
    ----------
    traced : TracedProgram
        The program.
    arrays : mapping of str to array
        Its arguments by name.
    kind : type
        Type of an array on the device.
    """
    updated = set(traced.in_place.values()) - {traced.donated}
    if on_host := [path for path in updated if not isinstance(arrays[path], kind)]:
        raise TypeError(
            f"{', '.join(sorted(on_host))}: updated in place, but not on the device; "
            "call to_device first"
        )


def fill_outputs(traced: "TracedProgram", outputs: Sequence[Any]) -> Any:
    """Return the function's output, a pytree, from the flat outputs of its program."""
    return tree_map(lambda _, number: outputs[number], traced.output_tree)
