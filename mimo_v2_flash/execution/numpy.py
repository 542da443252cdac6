"""NumPy, here and now: a layer is its own program. Every other backend is checked against it."""

from collections.abc import Callable
from typing import Any

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """Runs functions as they are."""

    execution_mode = "eager"

    def to_device(self, record: Any) -> Any:
        """Return `record` itself."""
        return record

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` itself."""
        return function
