"""Decoder layers whose hidden states every rank has of all tokens: two collectives a layer.

A rank attends for its own sequences with its own heads; one all_reduce over all ranks adds up the
heads' shares and puts each sequence's in its place. A rank routes all tokens and computes its
experts; another all_reduce adds up theirs. `LayerRange` has five collectives of fewer bytes:
`collective_cost` says which is quicker.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import DecoderWeights
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import AllReduceDispatcher
from mimo_v2_flash.parallel import ALONE, Group

from .decoder import DecoderLayer
from .feed_forward import MixtureOfExperts, RankIds
from .forward_batch import AttentionMetadata

__all__ = ["ReplicatedLayer", "ReplicatedRange", "place_part", "take_part"]


def take_part(x_MD: Any, rank_1: Any, parts: int) -> Any:
    """Return the part of the tokens that belongs to a data-parallel rank, of equally many each.

    Parameters
    ----------
    x_MD
        Tokens of all data-parallel ranks, [parts * N, D].
    rank_1
        Number of the rank, an array of one integer.
    parts
        Number of data-parallel ranks.
    """
    if parts == 1:
        return x_MD
    count = x_MD.shape[0] // parts
    return np.take(x_MD, rank_1 * np.int32(count) + ops.arange(x_MD, count), axis=0)


def place_part(x_ND: Any, rank_1: Any, parts: int) -> Any:
    """Return the tokens of all data-parallel ranks: this rank's in their place, zeros elsewhere.

    Parameters
    ----------
    x_ND
        Tokens of this rank.
    rank_1
        Number of the rank, an array of one integer.
    parts
        Number of data-parallel ranks.
    """
    if parts == 1:
        return x_ND
    part_M = np.repeat(np.arange(parts, dtype=np.int32), x_ND.shape[0])
    is_local_M1 = np.expand_dims(ops.constant(x_ND, part_M) == rank_1, 1)
    # Not a product: 0 x NaN is NaN, and a bad row is to stay alone.
    return np.where(is_local_M1, np.concatenate([x_ND] * parts, axis=0), np.float32(0))


@dataclass(frozen=True)
class ReplicatedLayer:
    """A decoder layer on the hidden states of all tokens.

    Parameters
    ----------
    layer
        The layer, which every rank computes for its own tokens.
    world_group
        All ranks.
    parts
        Data-parallel ranks: how many parts the tokens have.
    """

    layer: DecoderLayer
    world_group: Group
    parts: int

    def __call__(
        self,
        x_MD: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        data_rank_1: Any,
        cache: KVCache,
        weights: DecoderWeights,
    ) -> Any:
        """Return the hidden states of all tokens after the layer, `x_MD`; write into `cache`."""
        x_ND = take_part(x_MD, data_rank_1, self.parts)
        partial_ND = self._attention(x_ND, metadata, cache, weights)
        y_MD = self.world_group.all_reduce(place_part(partial_ND, data_rank_1, self.parts))
        return self._feed_forward(x_MD + y_MD.astype(x_MD.dtype), rank_ids, weights)

    def first(
        self,
        x_ND: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        data_rank_1: Any,
        cache: KVCache,
        weights: DecoderWeights,
    ) -> Any:
        """Return what a call does, from this rank's tokens alone.

        The first all_reduce brings the hidden states too, from one rank of each tensor group.

        Parameters
        ----------
        x_ND
            Hidden states of this rank.
        metadata
            Positions and slots of all ranks.
        rank_ids
            Numbers of this rank in its groups.
        data_rank_1
            Its data-parallel number, an array of one integer.
        cache
            Keys and values of the layer.
        weights
            Weights of the layer.
        """
        D, dtype = x_ND.shape[1], x_ND.dtype
        partial_ND = self._attention(x_ND, metadata, cache, weights)
        brings_1 = (rank_ids.tensor_rank_1 == np.int32(0)).astype(np.float32)
        both_NI = np.concatenate([partial_ND, x_ND.astype(np.float32) * brings_1], axis=1)
        both_MI = self.world_group.all_reduce(place_part(both_NI, data_rank_1, self.parts))
        x_MD = both_MI[:, D:].astype(dtype) + both_MI[:, :D].astype(dtype)
        return self._feed_forward(x_MD, rank_ids, weights)

    def _attention(
        self, x_ND: Any, metadata: AttentionMetadata, cache: KVCache, weights: DecoderWeights
    ) -> Any:
        block = self.layer.attention_block
        y_ND = block.norm(x_ND, weights.attention_norm_D, epsilon=block.norm_epsilon)
        return block.attention.partial(y_ND, metadata, cache, weights.attention)

    def _feed_forward(self, x_MD: Any, rank_ids: RankIds, weights: DecoderWeights) -> Any:
        block = self.layer.feed_forward_block
        feed_forward: Any = block.feed_forward
        if isinstance(feed_forward, MixtureOfExperts):  # no rank leaves tokens to others
            feed_forward = replace(feed_forward, tensor_group=ALONE)
        y_MD = block.norm(x_MD, weights.feed_forward_norm_D, epsilon=block.norm_epsilon)
        # Padding has experts too: all of them compute every token, and nobody reads its output.
        position_M = ops.full(x_MD, (x_MD.shape[0],), 0, np.int32)
        y_MD, _ = feed_forward(
            y_MD, position_M, rank_ids, weights.feed_forward, dispatcher=AllReduceDispatcher()
        )
        return x_MD + y_MD


@dataclass(frozen=True)
class ReplicatedRange:
    """Decoder layers in a row, between which every rank has the hidden states of all tokens.

    Parameters
    ----------
    layers
        The layers, in their order.
    kinds
        For each layer, which of the attention metadata is its kind's.
    """

    layers: tuple[ReplicatedLayer, ...]
    kinds: tuple[int, ...]

    def __call__(
        self,
        x_ND: Any,
        metadata: tuple[AttentionMetadata, ...],
        rank_ids: RankIds,
        data_rank_1: Any,
        caches: tuple[KVCache, ...],
        weights: tuple[DecoderWeights, ...],
    ) -> Any:
        """Return this rank's hidden states after the last layer, `x_ND`; write into `caches`."""
        x_MD, parts = None, zip(self.layers, self.kinds, caches, weights, strict=True)
        for layer, kind, cache, layer_weights in parts:
            shared = (metadata[kind], rank_ids, data_rank_1, cache, layer_weights)
            x_MD = layer.first(x_ND, *shared) if x_MD is None else layer(x_MD, *shared)
        return take_part(x_MD, data_rank_1, self.layers[0].parts)
