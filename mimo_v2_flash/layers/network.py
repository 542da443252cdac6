"""The layers' runner: embedding, decoder layers, and the LM head at the requested tokens."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kv_cache import HybridCache, new_cache

from .head import LMHead
from .parallel_context import ParallelContext
from .stack import Stack

__all__ = ["Network"]


class Network:
    """The layers' runner: runs embedding, decoder layers and head on one rank's part of the model.

    Parameters
    ----------
    config
        The model's config.
    backend
        The backend that compiles and runs the layers.
    context
        The ranks that heads, experts, rows and vocabulary are split over.
    dtype
        Dtype of the hidden states: float32 or bfloat16.

    Attributes
    ----------
    layers
        The layer specs, with this rank's heads.
    """

    def __init__(
        self,
        config: MiMoConfig,
        backend: Backend,
        context: ParallelContext,
        dtype: Any = np.float32,
    ) -> None:
        self.layers = tuple(map(context.shard_spec.local_layer, config.layers))
        self._stack = Stack(self.layers, backend, context, dtype)
        self._head = LMHead(config, backend, context)
        self._vocab_size, self._context = config.vocab_size, context
        self._to_device = backend.to_device

    def new_cache(self, batch_size: int, max_length: int, dtype: Any) -> HybridCache:
        """Return an empty cache of this rank's rows and heads."""
        batch_size = self._context.padded_batch_size(batch_size)
        local_rows = self._context.batch_slice(batch_size)
        cache = new_cache(
            self.layers,
            batch_size=batch_size,
            max_length=max_length,
            dtype=dtype,
            local_rows=local_rows,
        )
        return replace(cache, layers=self._to_device(cache.layers))

    def logits(self, index_Bn: np.ndarray, *step: Any) -> np.ndarray:
        """Return the logits after the tokens at `index_Bn`, float32 [B, n, vocab].

        `step` is token_BT, position_BT, cache, weights and `max_step`, the maximum number of tokens
        per row that pass through the layers together.
        """
        logits_BnV = np.zeros((0, 0, 0), np.float32)
        chunks = self._run_chunks(self._head.logits, index_Bn, *step)
        for in_chunk_Bn, column_n, chunk_BnV in chunks:
            if np.all(in_chunk_Bn):
                logits_BnV = chunk_BnV
                continue
            if not logits_BnV.size:
                logits_BnV = np.zeros((*index_Bn.shape, self._vocab_size), np.float32)
            logits_BnV[in_chunk_Bn] = chunk_BnV[in_chunk_Bn[:, column_n]]
        return logits_BnV

    def greedy(self, index_Bn: np.ndarray, *step: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return (token_Bn, logit_Bn): the greedy tokens after the tokens at `index_Bn`."""
        token_Bn = np.zeros(index_Bn.shape, np.int32)
        logit_Bn = np.zeros(index_Bn.shape, np.float32)
        chunks = self._run_chunks(self._head.greedy, index_Bn, *step)
        for in_chunk_Bn, column_n, outputs in chunks:
            for y_Bn, chunk_Bn in zip((token_Bn, logit_Bn), outputs, strict=True):
                y_Bn[in_chunk_Bn] = chunk_Bn[in_chunk_Bn[:, column_n]]
        return token_Bn, logit_Bn

    def _run_chunks(
        self,
        head_fn: Callable[..., Any],
        index_Bn: np.ndarray,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: ModelWeights,
        max_step: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Run all chunks; yield, for chunks with requested tokens, masks and the head's output.

        The masks are of the tokens in `index_Bn` that lie in the chunk, and of the columns of
        `index_Bn` that have such a token; the head's output has those columns alone.
        """
        chunks = self._stack(token_BT, position_BT, cache, weights, max_step=max_step)
        for columns, x_bTD in chunks:
            in_chunk_Bn = (columns.start <= index_Bn) & (index_Bn < columns.stop)
            column_n = np.any(in_chunk_Bn, axis=0)
            if np.any(column_n):
                local_Bn = np.maximum(index_Bn[:, column_n] - columns.start, 0)
                output = head_fn(x_bTD, local_Bn, weights, rows=cache.local_rows)
                yield in_chunk_Bn, column_n, output
