"""A layer's programs: one, or two halves where the second may have to be run again."""

from typing import Any

import numpy as np

from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.weights.params import DecoderWeights

from .attention import AttentionMetadata
from .decoder import DecoderLayer
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

    def __init__(self, layer: DecoderLayer, backend: Backend) -> None:
        self._whole = backend.compile(layer)
        self._attention_block, self._feed_forward_block = (
            backend.compile(layer.attend),
            backend.compile(layer.feed_forward_block),
        )

    def __call__(
        self,
        x_BTD: Any,
        metadata: AttentionMetadata,
        rank: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        kv_length: int,
        dispatchers: tuple[Dispatcher, ...],
        local_tokens: int,
    ) -> Any:
        """Return the stream after the layer, `x_BTD`, and write the tokens into `cache`.

        The exchanges are tried one after the other; the last has room for any tokens. Attention,
        which writes the cache, runs once.
        """
        if len(dispatchers) == 1:
            dispatch_options = {
                "kv_length": kv_length,
                "dispatcher": dispatchers[0],
                "local_tokens": local_tokens,
            }
            return self._whole(x_BTD, metadata, rank, cache, weights, **dispatch_options)
        norm_D, attention, *network = weights
        x_BTD = self._attention_block(
            x_BTD, metadata, cache, norm_D, attention, kv_length=kv_length
        )
        for dispatcher in dispatchers:
            given = x_BTD, metadata.position_BT, rank, *network
            overflow_1, y_BTD = self._feed_forward_block(
                *given, dispatcher=dispatcher, local_tokens=local_tokens
            )
            if not np.any(np.asarray(overflow_1)):
                break
        return y_BTD
