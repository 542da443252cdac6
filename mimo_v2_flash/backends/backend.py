"""What the model knows of the place where its layers run."""

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Backend"]


class Backend(Protocol):
    """Compile once per layer and shapes, then run."""

    def compile(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Return `layer` as a program of this backend, with the same signature."""
