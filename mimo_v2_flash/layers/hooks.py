"""Layers that let a listener hear what passes through them; unwatched ones know nothing of it.

A layer has its parts as fields. Here each part is replaced by one that does the same and then tells
what it was given and what it said: the very arrays of the run, in the order of computing.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from mimo_v2_flash.execution import NumpyBackend

from .decoder import Decoder
from .feed_forward import MixtureOfExperts

__all__ = ["Call", "Listener", "WatchedLayers", "watched"]


class Call(NamedTuple):
    """One call of a part of a layer.

    Attributes
    ----------
    layer
        The layer's index.
    part
        "turn", "look", "attention", "answer", "mixture", "feed_forward" or "layer"; a mixture of
        experts is heard as "mixture", then as "feed_forward".
    function
        The part itself; calling it is not heard.
    given, static, said
        Its arguments, those by keyword, and its answer; not to be changed.
    """

    layer: int
    part: str
    function: Callable[..., Any]
    given: tuple[Any, ...]
    static: dict[str, Any]
    said: Any


Listener = Callable[[Call], object]


class WatchedLayers(NumpyBackend):
    """A backend: NumPy, with a listener.

    Parameters
    ----------
    layers
        How many layers the model has; they run in turn.
    listener
        Called after every call of a part.
    """

    def __init__(self, layers: int, listener: Listener) -> None:
        self._layers, self._listener, self._calls = layers, listener, count()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, watched if it is a layer."""
        return self._watched(function) if isinstance(function, Decoder) else function

    def _watched(self, layer: Decoder) -> Callable[..., Any]:

        def program(*given: Any, **static: Any) -> Any:
            index = next(self._calls) % self._layers
            return watched(layer, index, self._listener)(*given, **static)

        return program


def watched(layer: Any, index: int, listener: Listener) -> Callable[..., Any]:
    """Return a decoder layer, the one at `index`, that tells `listener` of every part's calls."""

    def heard(part: str, function: Any) -> Any:
        def call(*given: Any, **static: Any) -> Any:
            said = function(*given, **static)
            listener(Call(index, part, function, given, static, said))
            return said

        return call

    attention, feed_forward = layer.attention, layer.feed_forward
    attention = replace(
        attention, turn=heard("turn", attention.turn), look=heard("look", attention.look)
    )
    if isinstance(feed_forward, MixtureOfExperts):
        mixture = replace(feed_forward, expert_fn=heard("answer", feed_forward.expert_fn))
        feed_forward = heard("mixture", mixture)
    parts = {
        "attention": heard("attention", attention),
        "feed_forward": heard("feed_forward", feed_forward),
    }
    return heard("layer", replace(layer, **parts))
