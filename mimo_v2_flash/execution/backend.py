"""The interface of an execution backend: move arrays to the device, compile functions."""

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Backend", "MissingProgramError"]


class MissingProgramError(FileNotFoundError, ValueError):
    """A program is not compiled, and compilation is disabled, or there is no compiler."""


class Backend(Protocol):
    """An execution backend, which compiles one program per function and input shapes.

    Attributes
    ----------
    execution_mode
        A key of `layers.execution_mode.EXECUTION_MODES`: "eager" if shapes may depend on the data,
        "static" if they may not.
    """

    execution_mode: str

    def to_device(self, tree: Any) -> Any:
        """Return the pytree `tree` with its arrays moved to the device."""

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function` as a program of this backend, with the same signature.

        A program also takes host arrays, except for buffers that it updates in place: those must
        be on the device. `donate` names an array parameter whose buffer the program may overwrite
        with the function's first output, of the same shape and dtype, as jax's `donate_argnames`.
        """
