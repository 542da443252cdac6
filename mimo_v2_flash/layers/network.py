"""From tokens to the words after them: the stack, then the head where it is asked for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kv_cache import HybridCache, new_cache
from mimo_v2_flash.weights.params import ModelWeights

from .head import Head
from .parallel_context import ParallelContext
from .stack import Stack

__all__ = ["Network"]


class Network:
    """The programs of a model.

    Parameters
    ----------
    config
        The model.
    backend
        Where programs run.
    ranks
        Those that heads, experts, rows and vocabulary are split over.
    dtype
        Of the stream: float32 or bfloat16.

    Attributes
    ----------
    layers
        With the heads that are here.
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
        self._head = Head(config, backend, context)
        self._vocabulary, self._context, self._to_device = (
            config.vocab_size,
            context,
            backend.to_device,
        )

    def new_cache(self, batch_size: int, max_length: int, dtype: Any) -> HybridCache:
        """Return an empty cache of the rows and heads that are here."""
        batch = self._context.padded_batch_size(batch_size)
        sizes: dict[str, Any] = {
            "batch_size": batch,
            "local_rows": self._context.batch_slice(batch),
        }
        cache = new_cache(self.layers, max_length=max_length, dtype=dtype, **sizes)
        return replace(cache, layers=self._to_device(cache.layers))

    def logits(self, index_Bn: np.ndarray, *step: Any) -> np.ndarray:
        """Return the logits after the tokens at `index_Bn`, float32 [B, n, vocab].

        The step is token_BT, position_BT, cache, weights and `max_step`: the tokens per row that
        pass through the layers together.
        """
        logits_BnV = np.zeros((0, 0, 0), np.float32)
        for here_Bn, wanted_n, part_BnV in self._asked(self._head.logits, index_Bn, *step):
            if np.all(here_Bn):
                logits_BnV = part_BnV
                continue
            if not logits_BnV.size:
                logits_BnV = np.zeros((*index_Bn.shape, self._vocabulary), np.float32)
            logits_BnV[here_Bn] = part_BnV[here_Bn[:, wanted_n]]
        return logits_BnV

    def greedy(self, index_Bn: np.ndarray, *step: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return (token_Bn, logit_Bn): the likeliest words after the tokens at `index_Bn`."""
        token_Bn, logit_Bn = (
            np.zeros(index_Bn.shape, np.int32),
            np.zeros(index_Bn.shape, np.float32),
        )
        for here_Bn, wanted_n, parts in self._asked(self._head.greedy, index_Bn, *step):
            for whole_Bn, part_Bn in zip((token_Bn, logit_Bn), parts, strict=True):
                whole_Bn[here_Bn] = part_Bn[here_Bn[:, wanted_n]]
        return token_Bn, logit_Bn

    def _asked(
        self,
        ask: Callable[..., Any],
        index_Bn: np.ndarray,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: ModelWeights,
        max_step: int,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Yield, where a chunk was asked for: of whom, in which columns, and the head's answer."""
        chunks = self._stack(token_BT, position_BT, cache, weights, max_step=max_step)
        for columns, x_bTD in chunks:
            here_Bn = (columns.start <= index_Bn) & (index_Bn < columns.stop)
            wanted_n = np.any(here_Bn, axis=0)
            if np.any(wanted_n):
                within_Bn = np.maximum(index_Bn[:, wanted_n] - columns.start, 0)
                yield here_Bn, wanted_n, ask(x_bTD, within_Bn, weights, rows=cache.local_rows)
