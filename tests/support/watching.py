"""A backend that runs NumPy and takes notes: what was compiled, and which tokens passed."""

from collections.abc import Callable
from typing import Any

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder import DecoderLayer


class WatchingBackend(NumpyBackend):
    """Runs layers as they are; other functions are not watched.

    Attributes
    ----------
    compiled
        The layers, in the order in which they were compiled.
    calls
        Of each call of a program: the layer, and the step's position_BT.
    """

    def __init__(self) -> None:
        self.compiled: list[Any] = []
        self.calls: list[tuple[Any, Any]] = []

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, watched if it is a layer."""
        return self._watched(function) if isinstance(function, DecoderLayer) else function

    def _watched(self, layer: DecoderLayer) -> Callable[..., Any]:
        self.compiled.append(layer)

        def program(x_BTD: Any, step: Any, *rest: Any, **kwargs: Any) -> Any:
            self.calls.append((layer, step.position_BT))
            return layer(x_BTD, step, *rest, **kwargs)

        return program

    def tokens(self) -> list[int]:
        """Return how many real tokens of each row passed through the layers, added up."""
        return [int(sum(row)) for row in zip(*self._real_tokens(), strict=True)]

    def _real_tokens(self):
        return ((position_BT >= 0).sum(axis=1) for _, position_BT in self.calls)
