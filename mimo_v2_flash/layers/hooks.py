"""Layers that let a listener hear what passes through them; unwatched ones know nothing of it.

A layer has its parts as fields. Here each part is replaced by one that does the same and then tells
what it was given and what it said: the very arrays of the run, in the order of computing.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from mimo_v2_flash.execution import NumpyBackend

from .decoder import DecoderLayer
from .feed_forward import MixtureOfExperts

__all__ = ["Hook", "HookCall", "HookedLayers", "hook_layer"]


class HookCall(NamedTuple):
    """One call of a part of a layer.

    Attributes
    ----------
    layer
        The layer's index.
    part
        "apply_rope", "attend", "attention", "experts", "moe", "feed_forward" or "layer"; a mixture of
        experts is heard as "moe", then as "feed_forward".
    function
        The part itself; calling it is not heard.
    given, static, said
        Its arguments, those by keyword, and its answer; not to be changed.
    """

    layer: int
    part: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


Hook = Callable[[HookCall], object]


class HookedLayers(NumpyBackend):
    """A backend: NumPy, with a listener.

    Parameters
    ----------
    layers
        How many layers the model has; they run in turn.
    listener
        Called after every call of a part.
    """

    def __init__(self, layers: int, hook: Hook) -> None:
        self._layers, self._hook, self._calls = layers, hook, count()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, watched if it is a layer."""
        return self._hooked(function) if isinstance(function, DecoderLayer) else function

    def _hooked(self, layer: DecoderLayer) -> Callable[..., Any]:

        def program(*args: Any, **kwargs: Any) -> Any:
            index = next(self._calls) % self._layers
            return hook_layer(layer, index, self._hook)(*args, **kwargs)

        return program


def hook_layer(layer: Any, index: int, hook: Hook) -> Callable[..., Any]:
    """Return a decoder layer, the one at `index`, that tells `hook` of every part's calls."""

    def with_hook(part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = function(*args, **kwargs)
            hook(HookCall(index, part, function, args, kwargs, output))
            return output

        return call

    attention, feed_forward = layer.attention, layer.feed_forward
    attention = replace(
        attention,
        apply_rope=with_hook("apply_rope", attention.apply_rope),
        attend=with_hook("attend", attention.attend),
    )
    if isinstance(feed_forward, MixtureOfExperts):
        mixture = replace(feed_forward, expert_fn=with_hook("experts", feed_forward.expert_fn))
        feed_forward = with_hook("moe", mixture)
    parts = {
        "attention": with_hook("attention", attention),
        "feed_forward": with_hook("feed_forward", feed_forward),
    }
    return with_hook("layer", replace(layer, **parts))
