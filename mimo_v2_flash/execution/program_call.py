"""From a call to a program and back: what all backends that trace have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature as signature_of
from typing import TYPE_CHECKING, Any

from .pytree import tree_arrays, tree_map, tree_signature

if TYPE_CHECKING:
    from .tracing import TracedProgram

__all__ = ["ProgramCall", "check_on_device", "fill_outputs"]


@dataclass(frozen=True)
class ProgramCall:
    """A function and its arguments by name."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], *positional: Any, **named: Any) -> "ProgramCall":
        """Return the call `function(*positional, **named)`."""
        return cls(function, signature_of(function).bind(*positional, **named).arguments)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """Its arrays, by their paths."""
        return tree_arrays(self.arguments)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What its program depends on: everything but the values of arrays."""
        return self.function, tree_signature(self.arguments)


def check_on_device(traced: "TracedProgram", arguments: Mapping[str, Any], kind: type) -> None:
    """Raise TypeError if the host would never see what the program writes.

    Its arrays must be of `kind`, the backend's, but for the first: that one is the answer.
    """
    written = set(traced.in_place.values()) - {traced.inputs[0]}
    if lost := [path for path in written if not isinstance(arguments[path], kind)]:
        raise TypeError(f"{', '.join(sorted(lost))}: written in place, but not placed")


def fill_outputs(traced: "TracedProgram", outputs: Sequence[Any]) -> Any:
    """Return what the function says: its record, of a program's outputs."""
    return tree_map(lambda _, number: outputs[number], traced.output_tree)
