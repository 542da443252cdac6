"""Attention layer: QKV projections, RoPE, attention over the KV cache, output projection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import AttentionWeights
from mimo_v2_flash.config import AttentionSpec
from mimo_v2_flash.cpu.kv_codes import channels, encode
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.attention import KVSegment
from mimo_v2_flash.kernels.kv_cache import KVCache, write_tokens
from mimo_v2_flash.kernels.rope_partial import rope_partial
from mimo_v2_flash.parallel import Group

from .eager_attention import attend
from .forward_batch import AttentionMetadata

__all__ = ["Attention", "apply_rope"]


def apply_rope(
    q_NHQ: Any, k_NKQ: Any, metadata: AttentionMetadata, *, rotate: Callable[..., Any]
) -> tuple[Any, Any]:
    """Return queries and keys rotated by their tokens' positions (partial RoPE).

    Parameters
    ----------
    q_NHQ, k_NKQ : array
        Queries and keys.
    metadata : AttentionMetadata
        Positions of the tokens, and the tables of the layer's theta.
    rotate : callable
        The rotation, with the arguments of `rope_partial`.
    """
    position_N, cos_LR, sin_LR = metadata.position_N, metadata.cos_LR, metadata.sin_LR
    return tuple(rotate(x_NHQ, position_N, cos_LR, sin_LR) for x_NHQ in (q_NHQ, k_NKQ))


@dataclass(frozen=True)
class Attention:
    """Attention layer with grouped-query heads, tensor parallel over the heads.

    Parameters
    ----------
    spec
        The layer's head widths, window and value scale; head counts follow from the weights.
    tensor_group
        The ranks that the heads are split over.
    query_block
        The maximum number of queries whose scores are in memory at one time.
    attend
        The attention function: `eager_attention.attend` for all heads at once, or
        `eager_attention.attend_per_kv_head`.
    apply_rope
        The function that rotates queries and keys by their positions.
    rotate
        The rotation of one tensor, as `rope_partial`.
    """

    spec: AttentionSpec
    tensor_group: Group
    query_block: int
    attend: Callable[..., Any] = attend
    apply_rope: Callable[..., Any] = apply_rope
    rotate: Callable[..., Any] = rope_partial

    def __call__(
        self, x_ND: Any, metadata: AttentionMetadata, cache: KVCache, weights: AttentionWeights
    ) -> Any:
        """Return the attention output, `y_ND`, and write keys and values into `cache`."""
        if not x_ND.shape[0]:  # no rank of the tensor group has tokens: none enters the all_reduce
            return x_ND
        partial_ND = self.partial(x_ND, metadata, cache, weights)
        return self.tensor_group.all_reduce(partial_ND).astype(x_ND.dtype)

    def partial(
        self, x_ND: Any, metadata: AttentionMetadata, cache: KVCache, weights: AttentionWeights
    ) -> Any:
        """Return the share of this rank's heads in the output, `y_ND`, float32; write `cache`.

        Parameters
        ----------
        x_ND
            Normalised hidden states.
        metadata
            Positions and slots of the tokens.
        cache
            Keys and values of the layer.
        weights
            Projections of this rank.
        """
        q_NHQ = self._heads(x_ND, weights.w_q_OD, self.spec.head_dim)
        k_NKQ = self._heads(x_ND, weights.w_k_OD, self.spec.head_dim)
        v_NKC = self._heads(x_ND, weights.w_v_OD, self.spec.v_head_dim)
        v_NKC = v_NKC * np.float32(self.spec.value_scale).astype(x_ND.dtype)
        q_NHQ, k_NKQ = self.apply_rope(q_NHQ, k_NKQ, metadata, rotate=self.rotate)
        # As later steps will see them.
        k_NKQ, v_NKC = encode(k_NKQ, cache.k_ZKQ.dtype), encode(v_NKC, cache.v_ZKC.dtype)
        y_NHC = self._attend_runs(q_NHQ, k_NKQ, v_NKC, metadata, cache, weights.sink_H)
        write_tokens(cache, k_NKQ, v_NKC, metadata.position_N, metadata.slot_mapping_N)
        return ops.matmul(np.reshape(y_NHC, (x_ND.shape[0], -1)), weights.w_o_DI)

    def _heads(self, x_ND: Any, w_OD: Any, width: int) -> Any:
        """Return the projection of `x_ND` to heads of `width`, in the dtype of `x_ND`."""
        y_NO = ops.matmul(x_ND, w_OD).astype(x_ND.dtype)
        return np.reshape(y_NO, (x_ND.shape[0], -1, width))

    def _attend_runs(
        self,
        q_NHQ: Any,
        k_NKQ: Any,
        v_NKC: Any,
        metadata: AttentionMetadata,
        cache: KVCache,
        sink_H: Any,
    ) -> Any:
        """Return `y_NHC`: the attention of every run of sequences, one call each."""
        outputs = [
            self.attend(
                run.gather(q_NHQ),
                KVSegment(run.gather(k_NKQ), run.gather(v_NKC), run.positions(metadata.position_N)),
                run.prior(cache, metadata.slots),
                sink_H,
                window=self.spec.window,
                query_block=self.query_block,
            )
            for run in metadata.runs
        ]
        if len(outputs) == 1 and metadata.runs[0].token_BT is None:
            return outputs[0]
        y_NHC = np.empty((*q_NHQ.shape[:2], channels(v_NKC)), q_NHQ.dtype)
        for run, y_BTHC in zip(metadata.runs, outputs, strict=True):
            run.scatter(y_BTHC, y_NHC)
        return y_NHC
