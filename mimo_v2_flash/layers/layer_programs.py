"""Programs of a decoder layer: the whole layer, or its two blocks where experts may overflow."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import DecoderWeights
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher

from .feed_forward import RankIds
from .forward_batch import AttentionMetadata

__all__ = ["LayerPrograms"]


class LayerPrograms(NamedTuple):
    """The programs of a decoder layer: the whole, and its two blocks."""

    layer: Callable[..., Any]
    attention_block: Callable[..., Any]
    feed_forward_block: Callable[..., Any]

    def run_blocks(
        self,
        x_ND: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        cache: KVCache,
        weights: DecoderWeights,
        *,
        dispatchers: tuple[Dispatcher, ...],
    ) -> Any:
        """Return the hidden states after the layer, `x_ND`; try the dispatchers in turn.

        Until none overflows the feed-forward block runs again; the last dispatcher has capacity
        for any tokens. The attention block, which writes the cache, runs once.

        Parameters
        ----------
        x_ND : array
            Hidden states.
        metadata : AttentionMetadata
            Positions, rows and tables of the pass.
        rank_ids : RankIds
            This rank in its groups, as data.
        cache : KVCache
            The layer's cache.
        weights : DecoderWeights
            The layer's weights.
        dispatchers : tuple of Dispatcher
            Dispatchers, those of small capacity first.
        """
        x_ND = self.attention_block(
            x_ND, metadata, cache, weights.attention_norm_D, weights.attention
        )
        for dispatcher in dispatchers:
            y_ND, overflow_1 = self.feed_forward_block(
                x_ND,
                metadata.position_N,
                rank_ids,
                weights.feed_forward_norm_D,
                weights.feed_forward,
                dispatcher=dispatcher,
            )
            if not np.any(np.asarray(overflow_1)):
                break
        return y_ND
