"""Embedding and decoder layers of the layers' runner; each distinct layer is compiled once."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import AttentionSpec, LayerSpec
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kernels.token_embedding import token_embedding
from mimo_v2_flash.kv_cache import HybridCache, slot_mapping

from .attention import AttentionMetadata
from .decoder import DecoderLayer
from .parallel_context import ParallelContext
from .passage import Passage

__all__ = ["Stack"]


class Stack:
    """Embedding and decoder layers, part of the layers' runner: all but the head.

    Parameters
    ----------
    specs
        The layer specs, first to last; equal layers share a program.
    backend
        The backend that compiles and runs the layers.
    context
        The ranks that heads, experts and rows are split over.
    dtype
        Dtype of the hidden states: float32 or bfloat16.
    """

    def __init__(
        self,
        specs: tuple[LayerSpec, ...],
        backend: Backend,
        context: ParallelContext,
        dtype: Any = np.float32,
    ) -> None:
        groups = context.tensor_group, context.expert_group, context.mode, context.overflow_group
        passages = {
            spec: Passage(DecoderLayer.build(spec, *groups), backend) for spec in set(specs)
        }
        self._layers, self._context = [(spec, passages[spec]) for spec in specs], context
        self._to_device, self._embed = backend.to_device, backend.compile(embed)
        self._dtype = np.dtype(dtype).name
        self._rope_tables: dict[tuple[int, float], tuple[Any, Any]] = {}

    def __call__(
        self,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: ModelWeights,
        *,
        max_step: int,
    ) -> Iterator[tuple[slice, Any]]:
        """Yield each chunk's columns and its hidden states after the last layer, on the device.

        Tokens and positions are of all rows, the hidden states of this rank's rows; where those
        have more or fewer columns than the chunk, the difference is padding. Tokens are written
        into `cache`. A step of more than `max_step` tokens runs as consecutive chunks.
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
        mode, local_tokens = self._context.mode, self._context.local_tokens(position_BT, max_step)
        cache.begin_step(position_BT)
        token_bT, position_bT = token_BT[cache.local_rows], position_BT[cache.local_rows]
        x_bTD: Any = np.zeros((len(token_bT), 0, weights.embedding_VD.shape[1]), np.float32)
        if local_tokens:
            sizing_BT = mode.sizing_positions(position_BT, cache.local_rows)
            longest = int(np.max(np.sum(sizing_BT >= 0, axis=1), initial=0))
            length = mode.step_length(longest, max_step)
            step = _set_length(token_bT, length, 0), _set_length(position_bT, length, -1)
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
        slot_mappings = {
            slots: self._to_device(slot_mapping(position_BT, slots)) for slots in set(cache.slots)
        }
        position_BT = self._to_device(position_BT)
        x_BTD = self._embed(token_BT, weights.embedding_VD, dtype=self._dtype)
        state = zip(cache.slots, cache.layers, weights.layers, strict=True)
        for (spec, run), (slots, kv_cache, layer_weights) in zip(self._layers, state, strict=True):
            metadata = AttentionMetadata(
                position_BT,
                slot_mappings[slots],
                *self._rope_table(cache.max_length, spec.attention),
            )
            x_BTD = run(
                x_BTD,
                metadata,
                context.rank_ids,
                kv_cache,
                layer_weights,
                kv_length=context.mode.kv_length(min(start, slots), slots),
                dispatchers=context.dispatchers(spec, tokens, local_tokens),
                local_tokens=local_tokens,
            )
        return x_BTD

    def _rope_table(self, length: int, spec: AttentionSpec) -> tuple[Any, Any]:
        """Return (cos_LR, sin_LR) of at least `length` positions; the longest table is cached."""
        key = (spec.rotary_dim, spec.rope_theta)
        if key not in self._rope_tables or self._rope_tables[key][0].shape[0] < length:
            self._rope_tables[key] = self._to_device(
                rope_table(length=length, rotary_dim=spec.rotary_dim, theta=spec.rope_theta)
            )
        return self._rope_tables[key]


def embed(token_BT: Any, embedding_VD: Any, *, dtype: str) -> Any:
    """Return the token embeddings, `x_BTD`, in `dtype`."""
    return token_embedding(token_BT, embedding_VD).astype(np.dtype(dtype))


def _set_length(x_BT: np.ndarray, length: int, padding: int) -> np.ndarray:
    """Return `x_BT` truncated or padded to `length` columns."""
    y_BT = np.full((len(x_BT), length), padding, x_BT.dtype)
    y_BT[:, : x_BT.shape[1]] = x_BT[:, :length]
    return y_BT
