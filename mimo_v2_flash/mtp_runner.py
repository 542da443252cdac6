"""MTP runner: the heads that draft tokens, and the hidden states that they read.

Head k reads a token at position p and the main model's hidden state at p - 1 - k, and predicts the
token at p + 1, as the main model does at p. So its keys and values lie at the positions of the
tokens that it reads, beside the main model's: rejected drafts are masked and overwritten, and rows
are copied, as there. Rotation is relative, so that this is the same as the position of the hidden
state.

Source: SGLang's multi-layer EAGLE worker: head k works on the main model's hidden states, with
tokens rotated k + 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .checkpoint.params import ModelWeights
from .config import LayerSpec, MiMoConfig
from .execution import Backend
from .kernels.hidden_ring import take_hidden, write_hidden
from .kv_cache import HybridCache
from .layers.forward_batch import AttentionMetadata, ForwardBatch
from .layers.mtp import MTPHead
from .layers.parallel_context import ParallelContext
from .parallel_config import ShardSpec

__all__ = ["MTPRunner", "mtp_cache_layers"]


def mtp_cache_layers(config: MiMoConfig, shard_spec: ShardSpec, heads: int) -> list[LayerSpec]:
    """Return the layers that `heads` MTP heads add to a KV cache: theirs, and the hidden states.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    shard_spec : ShardSpec
        This rank's part.
    heads : int
        Number of MTP heads.
    """
    if not heads:
        return []
    head, D = config.mtp_layer, config.hidden_size
    halves = replace(head.attention, num_heads=0, num_kv_heads=1)
    halves = replace(halves, head_dim=D - D // 2, v_head_dim=D // 2)
    ring = replace(head, attention=halves)
    return [*[shard_spec.local_layer(head)] * heads, ring]


class MTPRunner:
    """Runs the MTP heads on one rank's part of the model.

    Parameters
    ----------
    config, weights, backend, context, dtype
        As for `ModelRunner`, which has the main model.
    metadata_of
        Function that returns the attention metadata of a layer of the cache, from a pass.

    Attributes
    ----------
    attention
        The heads' attention: that of the main model's sliding layers.
    """

    def __init__(
        self,
        config: MiMoConfig,
        weights: ModelWeights,
        backend: Backend,
        context: ParallelContext,
        metadata_of: Callable[..., AttentionMetadata],
        dtype: str,
    ) -> None:
        self._weights, self._context, self._metadata_of = weights, context, metadata_of
        self._to_device, self._dtype = backend.to_device, dtype
        self._first = config.num_hidden_layers  # of the cache's layers that are the heads'
        spec = context.shard_spec.local_layer(config.mtp_layer)
        self._spec, self._head = spec, backend.compile(MTPHead.build(spec, context))
        self.attention = spec.attention
        self._take = backend.compile(take_hidden)
        self._write = backend.compile(write_hidden)

    def head_weights(self, head: int) -> ModelWeights:
        """Return the model's weights with a head's final norm, for the shared LM head."""
        return self._weights._replace(final_norm_D=self._weights.mtp[head].final_norm_D)

    def heads(self, cache: HybridCache) -> int:
        """Return of how many heads a cache has keys and values; the ring is after theirs."""
        return max(0, len(cache.layers) - self._first - 1)

    def keep(
        self, batch: ForwardBatch, x_ND: Any, cache: HybridCache, sliding: AttentionMetadata | None
    ) -> None:
        """Keep the hidden states of a pass of the main model.

        `sliding` is the attention metadata of its sliding layers, whose slots the ring has.

        Parameters
        ----------
        batch : ForwardBatch
            The pass.
        x_ND : array
            Its last hidden states.
        cache : HybridCache
            The cache, with the ring of the hidden states.
        sliding : AttentionMetadata, optional
            Metadata of the sliding layers of the pass; computed if there is none.
        """
        ring = len(cache.layers) - 1
        if sliding is None:
            position_N = self._to_device(batch.position_N)
            sliding = self._metadata_of(self.attention, batch, position_N, cache, ring)
        self._write(cache.layers[ring], x_ND, sliding.position_N, sliding.slot_mapping_N)

    def draft(self, head: int, batch: ForwardBatch, cache: HybridCache) -> Any:
        """Let a head read tokens; return its hidden states of them, `x_ND`.

        The first tokens of a sequence have no hidden state before them, and are not read.

        Parameters
        ----------
        head : int
            Index of the head.
        batch : ForwardBatch
            Tokens that it reads.
        cache : HybridCache
            The cache, with those of the heads.
        """
        position_N, slots = batch.position_N, cache.slots[-1]
        source_N = np.maximum(position_N - 1 - head, 0)
        row_N = self._to_device((batch.row_N * slots + source_N % slots).astype(np.int32))
        position_N = np.where(position_N > head, position_N, -1).astype(np.int32)
        batch, layer = replace(batch, position_N=position_N), self._first + head
        metadata = self._metadata_of(
            self._spec.attention, batch, self._to_device(position_N), cache, layer
        )
        (dispatcher,) = self._context.dispatchers(self._spec, 0, batch.longest)
        return self._head(
            batch.token_N,
            self._take(cache.layers[-1], row_N),
            self._weights.embedding_VD,
            metadata,
            self._context.rank_ids,
            cache.layers[layer],
            self._weights.mtp[head],
            dispatcher=dispatcher,
            dtype=self._dtype,
        )
