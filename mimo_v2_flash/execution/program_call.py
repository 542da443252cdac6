"""From a call to a program and back: what all backends that trace have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature as signature_of
from typing import TYPE_CHECKING, Any

from .pytree import arrays, mapped, signature

if TYPE_CHECKING:
    from .tracing import Traced

__all__ = ["Call", "answered", "check_placed"]


@dataclass(frozen=True)
class Call:
    """A function and its arguments by name."""

    function: Callable[..., Any]
    given: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], *positional: Any, **named: Any) -> "Call":
        """Return the call `function(*positional, **named)`."""
        return cls(function, signature_of(function).bind(*positional, **named).arguments)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """Its arrays, by their paths."""
        return arrays(self.given)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What its program depends on: everything but the values of arrays."""
        return self.function, signature(self.given)


def check_placed(traced: "Traced", given: Mapping[str, Any], kind: type) -> None:
    """Raise TypeError if the host would never see what the program writes.

    Its arrays must be of `kind`, the backend's, but for the first: that one is the answer.
    """
    written = set(traced.in_place.values()) - {traced.inputs[0]}
    if lost := [path for path in written if not isinstance(given[path], kind)]:
        raise TypeError(f"{', '.join(sorted(lost))}: written in place, but not placed")


def answered(traced: "Traced", outputs: Sequence[Any]) -> Any:
    """Return what the function says: its record, of a program's outputs."""
    return mapped(lambda _, number: outputs[number], traced.answer)
