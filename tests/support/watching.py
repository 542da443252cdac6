"""A NumPy backend that records compiled layers and the tokens of every call."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder import DecoderLayer


class WatchingBackend(NumpyBackend):
    """A NumPy backend that records the calls of layers, but not of other functions.

    Attributes
    ----------
    compiled
        The layers, in the order of compilation.
    calls
        (layer, metadata) of every call of a layer.
    """

    def __init__(self) -> None:
        self.compiled: list[Any] = []
        self.calls: list[tuple[Any, Any]] = []

    def compile(self, function: Callable[..., Any], *, donate=None) -> Callable[..., Any]:
        """Return `function`, wrapped to record its calls if it is a layer."""
        return self._recorded(function) if isinstance(function, DecoderLayer) else function

    def _recorded(self, layer: DecoderLayer) -> Callable[..., Any]:
        self.compiled.append(layer)

        def program(x_ND: Any, metadata: Any, *rest: Any, **kwargs: Any) -> Any:
            self.calls.append((layer, metadata))
            return layer(x_ND, metadata, *rest, **kwargs)

        return program

    def tokens(self, rows: int) -> list[int]:
        """Return the number of tokens of each of `rows` sequences, summed over all layers."""
        total_B = np.zeros(rows, int)
        for _, metadata in self.calls:
            for run in metadata.runs:
                is_token_BT = run.positions(metadata.position_N) >= 0
                total_B[run.first_row : run.first_row + run.rows] += is_token_BT.sum(axis=1)
        return total_B.tolist()
