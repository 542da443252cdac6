"""A NumPy backend that records compiled layers and the tokens of every call."""

from collections.abc import Callable
from typing import Any

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder import DecoderLayer


class WatchingBackend(NumpyBackend):
    """A NumPy backend that records the calls of layers, but not of other functions.

    Attributes
    ----------
    compiled
        The layers, in the order of compilation.
    calls
        (layer, position_BT) of every call of a layer.
    """

    def __init__(self) -> None:
        self.compiled: list[Any] = []
        self.calls: list[tuple[Any, Any]] = []

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, wrapped to record its calls if it is a layer."""
        return self._recorded(function) if isinstance(function, DecoderLayer) else function

    def _recorded(self, layer: DecoderLayer) -> Callable[..., Any]:
        self.compiled.append(layer)

        def program(x_BTD: Any, step: Any, *rest: Any, **kwargs: Any) -> Any:
            self.calls.append((layer, step.position_BT))
            return layer(x_BTD, step, *rest, **kwargs)

        return program

    def tokens(self) -> list[int]:
        """Return the number of real tokens of each row, summed over all calls of layers."""
        return [int(sum(row)) for row in zip(*self._real_tokens(), strict=True)]

    def _real_tokens(self):
        return ((position_BT >= 0).sum(axis=1) for _, position_BT in self.calls)
