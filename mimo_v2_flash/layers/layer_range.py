"""Decoder layers in a row as one function: the residual stream and the caches stay inside it.

A program that holds a collective of all ranks takes 0.2 to 3.9 ms to launch on Trainium2, so a
decode step is a few programs (`program_size` bounds them).
"""

from dataclasses import dataclass
from typing import Any

from mimo_v2_flash.checkpoint.params import DecoderWeights
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher

from .decoder import DecoderLayer
from .feed_forward import RankIds
from .forward_batch import AttentionMetadata

__all__ = ["LayerRange", "split_layers"]


@dataclass(frozen=True)
class LayerRange:
    """Decoder layers in a row.

    Parameters
    ----------
    layers
        The layers, in their order.
    kinds
        For each layer, which of the attention metadata is its kind's.
    """

    layers: tuple[DecoderLayer, ...]
    kinds: tuple[int, ...]

    def __call__(
        self,
        x_ND: Any,
        metadata: tuple[AttentionMetadata, ...],
        rank_ids: RankIds,
        caches: tuple[KVCache, ...],
        weights: tuple[DecoderWeights, ...],
        *,
        dispatchers: tuple[Dispatcher, ...],
    ) -> Any:
        """Return the hidden states after the last layer, `x_ND`; write the tokens into `caches`.

        Each layer's dispatcher must have capacity for all tokens.
        """
        parts = zip(self.layers, self.kinds, caches, weights, dispatchers, strict=True)
        for layer, kind, cache, layer_weights, dispatcher in parts:
            x_ND = layer(
                x_ND, metadata[kind], rank_ids, cache, layer_weights, dispatcher=dispatcher
            )
        return x_ND


def split_layers(count: int, most: int) -> list[range]:
    """Return ranges of `count` layers, each of `most` but the last, which may have fewer.

    Examples
    --------
    >>> split_layers(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + most, count)) for start in range(0, count, most)]
