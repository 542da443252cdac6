"""The eager NumPy backend, which every other backend is checked against."""

from collections.abc import Callable
from typing import Any

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """A backend that runs functions eagerly, on host arrays."""

    execution_mode = "eager"

    def to_device(self, tree: Any) -> Any:
        """Return `tree` itself."""
        return tree

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function` itself."""
        return function
