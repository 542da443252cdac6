"""Compiled programs of a decoder layer: the whole layer, or two blocks where MoE may overflow."""

from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import DecoderWeights
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher

from .attention import AttentionMetadata
from .decoder import DecoderLayer
from .feed_forward import RankIds

__all__ = ["Passage"]


class Passage:
    """Runner of one decoder layer, part of the layers' runner: retries MoE dispatch on overflow.

    Parameters
    ----------
    layer
        The decoder layer.
    backend
        The backend that compiles and runs the layer.
    """

    def __init__(self, layer: DecoderLayer, backend: Backend) -> None:
        self._layer = backend.compile(layer)
        self._attention_block = backend.compile(layer.attention_block)
        self._feed_forward_block = backend.compile(layer.feed_forward_block)

    def __call__(
        self,
        x_BTD: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        kv_length: int,
        dispatchers: tuple[Dispatcher, ...],
        local_tokens: int,
    ) -> Any:
        """Return the hidden states after the layer, `x_BTD`, and write the tokens into `cache`.

        The dispatchers are tried one after the other until none overflows; the last has capacity
        for any tokens. The attention block, which writes the cache, runs once.
        """
        if len(dispatchers) == 1:
            return self._layer(
                x_BTD,
                metadata,
                rank_ids,
                cache,
                weights,
                kv_length=kv_length,
                dispatcher=dispatchers[0],
                local_tokens=local_tokens,
            )
        norm_D, attention_weights, *feed_forward_weights = weights
        x_BTD = self._attention_block(
            x_BTD, metadata, cache, norm_D, attention_weights, kv_length=kv_length
        )
        for dispatcher in dispatchers:
            args = x_BTD, metadata.position_BT, rank_ids, *feed_forward_weights
            overflow_1, y_BTD = self._feed_forward_block(
                *args, dispatcher=dispatcher, local_tokens=local_tokens
            )
            if not np.any(np.asarray(overflow_1)):
                break
        return y_BTD
