"""The stack: tokens embedded, then every distinct layer compiled once, all run in turn."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimo_v2_flash.config import AttentionSpec, LayerSpec
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kernels.token_embedding import token_embedding
from mimo_v2_flash.kv_cache import HybridCache, slot_mapping
from mimo_v2_flash.weights.params import ModelWeights

from .attention import AttentionMetadata
from .decoder import DecoderLayer
from .parallel_context import ParallelContext
from .passage import Passage

__all__ = ["Stack"]


class Stack:
    """All layers of a model, as programs of a backend.

    Parameters
    ----------
    specs
        The layers, first to last; equal ones share a program.
    backend
        Where they run.
    ranks
        Those that heads, experts and rows are split over.
    dtype
        Of the stream: float32 or bfloat16.
    """

    def __init__(
        self,
        specs: tuple[LayerSpec, ...],
        backend: Backend,
        context: ParallelContext,
        dtype: Any = np.float32,
    ) -> None:
        parts = context.tensor_group, context.expert_group, context.mode, context.overflow_group
        passages = {spec: Passage(DecoderLayer.build(spec, *parts), backend) for spec in set(specs)}
        self._layers, self._context = [(spec, passages[spec]) for spec in specs], context
        self._to_device, self._embed = backend.to_device, backend.compile(embed)
        self._dtype = np.dtype(dtype).name
        self._tables: dict[tuple[int, float], tuple[Any, Any]] = {}

    def __call__(
        self,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: ModelWeights,
        *,
        max_step: int,
    ) -> Iterator[tuple[slice, Any]]:
        """Yield columns and the stream after the last layer, where programs run.

        Tokens and positions are of all rows, the stream of those that are here: as many columns,
        or more or fewer where what is missing or more is padding. Tokens are written into `cache`.
        A step of more than `max_step` tokens runs as consecutive ones.
        """
        for start in range(0, position_BT.shape[1], max_step):
            columns = slice(start, start + max_step)
            yield (
                columns,
                self._step(token_BT[:, columns], position_BT[:, columns], cache, weights, max_step),
            )

    def _step(
        self,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: ModelWeights,
        max_step: int,
    ) -> Any:
        form, local_tokens = self._context.mode, self._context.local_tokens(position_BT, max_step)
        cache.begin_step(position_BT)
        token_bT, position_bT = token_BT[cache.local_rows], position_BT[cache.local_rows]
        x_bTD: Any = np.zeros((len(token_bT), 0, weights.embedding_VD.shape[1]), np.float32)
        if local_tokens:
            sizing_BT = form.sizing(position_BT, cache.local_rows)
            longest = int(np.max(np.sum(sizing_BT >= 0, axis=1), initial=0))
            length = form.length(longest, max_step)
            step = _fitted(token_bT, length, 0), _fitted(position_bT, length, -1)
            start = int(np.max(sizing_BT[:, :1], initial=0))
            tokens = int(np.count_nonzero(position_BT >= 0))
            x_bTD = self._run(
                *step, cache, weights, start=start, tokens=tokens, local_tokens=local_tokens
            )
        cache.finish_step(position_BT)
        return x_bTD

    def _run(
        self,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: ModelWeights,
        *,
        start: int,
        tokens: int,
        local_tokens: int,
    ) -> Any:
        context = self._context
        rows = {
            slots: self._to_device(slot_mapping(position_BT, slots)) for slots in set(cache.slots)
        }
        position_BT = self._to_device(position_BT)
        x_BTD = self._embed(token_BT, weights.embedding_VD, dtype=self._dtype)
        places = zip(cache.slots, cache.layers, weights.layers, strict=True)
        for (spec, passage), (slots, kv, layer_weights) in zip(self._layers, places, strict=True):
            step = AttentionMetadata(
                position_BT, rows[slots], *self._table(cache.max_length, spec.attention)
            )
            x_BTD = passage(
                x_BTD,
                step,
                context.rank_ids,
                kv,
                layer_weights,
                kv_length=context.mode.kv_length(min(start, slots), slots),
                dispatchers=context.dispatchers(spec, tokens, local_tokens),
                local_tokens=local_tokens,
            )
        return x_BTD

    def _table(self, length: int, spec: AttentionSpec) -> tuple[Any, Any]:
        """Return (cos_LR, sin_LR) for `length` positions or more; the longest one is kept."""
        key = (spec.rotary_dim, spec.rope_theta)
        if key not in self._tables or self._tables[key][0].shape[0] < length:
            self._tables[key] = self._to_device(
                rope_table(length=length, rotary_dim=spec.rotary_dim, theta=spec.rope_theta)
            )
        return self._tables[key]


def embed(token_BT: Any, embedding_VD: Any, *, dtype: str) -> Any:
    """Return the stream's beginning, `x_BTD`."""
    return token_embedding(token_BT, embedding_VD).astype(np.dtype(dtype))


def _fitted(x_BT: np.ndarray, length: int, padding: int) -> np.ndarray:
    """Return `length` columns: those of `x_BT`, then `padding`."""
    y_BT = np.full((len(x_BT), length), padding, x_BT.dtype)
    y_BT[:, : x_BT.shape[1]] = x_BT[:, :length]
    return y_BT
