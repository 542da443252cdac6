"""A layer's programs: one, or two halves where the second may have to be run again."""

from typing import Any

import numpy as np

from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Exchange
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
        exchanges: tuple[Exchange, ...],
        own: int,
    ) -> Any:
        """Return the stream after the layer, `x_BTD`, and write the tokens into `cache`.

        The exchanges are tried one after the other; the last has room for any tokens. Attention,
        which writes the cache, runs once.
        """
        if len(exchanges) == 1:
            way = {"filled": filled, "exchange": exchanges[0], "own": own}
            return self._whole(x_BTD, step, rank, cache, weights, **way)
        norm_D, attention, *network = weights
        x_BTD = self._attend(x_BTD, step, cache, norm_D, attention, filled=filled)
        for exchange in exchanges:
            given = x_BTD, step.position_BT, rank, *network
            overflow_1, y_BTD = self._feed(*given, exchange=exchange, own=own)
            if not np.any(np.asarray(overflow_1)):
                break
        return y_BTD
