"""What the model knows of the place where its layers run."""

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Backend"]


class Backend(Protocol):
    """Place once, compile once per function and shapes, then run.

    Attributes
    ----------
    form
        A key of `layers.forms.EXECUTION_MODES`: whether shapes may follow the data.
    """

    execution_mode: str

    def to_device(self, record: Any) -> Any:
        """Return `record`, nested tuples, with its arrays where programs run."""

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` as a program of this backend, with the same signature.

        A program takes arrays of the host too, but those that it writes into must be placed. What
        it is given first may be overwritten by its answer.
        """
