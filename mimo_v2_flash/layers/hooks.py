"""Forward hooks on the parts of decoder layers, like torch's `register_forward_hook`.

A layer has its parts as fields. A hooked layer has each part replaced by a function that computes
the same and then calls the hook with arguments and output: the arrays of the run themselves, in the
order of computing. Layers without hooks contain no code for them.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from mimo_v2_flash.execution import NumpyBackend

from .decoder import DecoderLayer
from .embedding import embed
from .feed_forward import MixtureOfExperts

__all__ = ["Hook", "HookCall", "HookedLayers", "hook_layer"]


class HookCall(NamedTuple):
    """One call of a part of a decoder layer, as a hook receives it.

    Attributes
    ----------
    layer
        The layer's index.
    part
        "apply_rope", "attend", "attention", "experts", "moe", "feed_forward" or "layer"; a mixture
        of experts calls the hook as "moe", then as "feed_forward".
    function
        The part without its own hook.
    args, kwargs, output
        The call's arguments and output; hooks must not change them.
    """

    layer: int
    part: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


Hook = Callable[[HookCall], object]


class HookedLayers(NumpyBackend):
    """A NumPy backend that calls a forward hook after every part of every decoder layer.

    Parameters
    ----------
    hook
        The function called with a `HookCall` after every call of a part.
    """

    def __init__(self, hook: Hook) -> None:
        self._hook, self._pass = hook, threading.local()

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function`, with hooks if it is a decoder layer.

        Layers are counted from the embedding on, with which every pass begins; threads that share
        a model are in passes of their own.
        """

        def program(*args: Any, **kwargs: Any) -> Any:
            if isinstance(function, DecoderLayer):
                return hook_layer(function, next(self._pass.index), self._hook)(*args, **kwargs)
            if function is embed:
                self._pass.index = count()
            return function(*args, **kwargs)

        return program


def hook_layer(layer: DecoderLayer, index: int, hook: Hook) -> Callable[..., Any]:
    """Return the decoder layer, number `index`, with `hook` called after every part.

    Parameters
    ----------
    layer : DecoderLayer
        The layer.
    index : int
        Its number, for the hook.
    hook : callable
        Called with a `HookCall` after each part.
    """

    def with_hook(part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            output = function(*args, **kwargs)
            hook(HookCall(index, part, function, args, kwargs, output))
            return output

        return call

    attention_block, feed_forward_block = layer.attention_block, layer.feed_forward_block
    attention, feed_forward = attention_block.attention, feed_forward_block.feed_forward
    attention = replace(
        attention,
        apply_rope=with_hook("apply_rope", attention.apply_rope),
        attend=with_hook("attend", attention.attend),
    )
    if isinstance(feed_forward, MixtureOfExperts):
        mixture = replace(feed_forward, expert_fn=with_hook("experts", feed_forward.expert_fn))
        feed_forward = with_hook("moe", mixture)
    blocks = DecoderLayer(
        replace(attention_block, attention=with_hook("attention", attention)),
        replace(feed_forward_block, feed_forward=with_hook("feed_forward", feed_forward)),
    )
    return with_hook("layer", blocks)
