"""A layer's programs: one, or two halves where the second may have to be run again."""

from typing import Any

import numpy as np

from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.weights.params import DecoderWeights

from .attention import Step
from .decoder import Decoder
from .feed_forward import RankIds

__all__ = ["Passage"]


class Passage:
    """What a step passes through at one layer.

    Parameters
    ----------
    layer
        The layer.
    backend
        Where it runs.
    """

    def __init__(self, layer: Decoder, backend: Backend) -> None:
        self._whole = backend.compile(layer)
        self._attend, self._feed = backend.compile(layer.attend), backend.compile(layer.feed)

    def __call__(
        self,
        x_BTD: Any,
        step: Step,
        rank: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        filled: int,
        dispatchers: tuple[Dispatcher, ...],
        local_tokens: int,
    ) -> Any:
        """Return the stream after the layer, `x_BTD`, and write the tokens into `cache`.

        The exchanges are tried one after the other; the last has room for any tokens. Attention,
        which writes the cache, runs once.
        """
        if len(dispatchers) == 1:
            dispatch_options = {
                "filled": filled,
                "dispatcher": dispatchers[0],
                "local_tokens": local_tokens,
            }
            return self._whole(x_BTD, step, rank, cache, weights, **dispatch_options)
        norm_D, attention, *network = weights
        x_BTD = self._attend(x_BTD, step, cache, norm_D, attention, filled=filled)
        for dispatcher in dispatchers:
            given = x_BTD, step.position_BT, rank, *network
            overflow_1, y_BTD = self._feed(*given, dispatcher=dispatcher, local_tokens=local_tokens)
            if not np.any(np.asarray(overflow_1)):
                break
        return y_BTD
