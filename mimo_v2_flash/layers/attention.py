"""Attention layer: QKV projections, RoPE, attention over the KV cache, output projection."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import AttentionWeights
from mimo_v2_flash.config import AttentionSpec
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.kv_cache import KVCache, prior_tokens, write_tokens
from mimo_v2_flash.kernels.rope_partial import rope_partial
from mimo_v2_flash.parallel import Group

from .eager_attention import attend

__all__ = ["Attention", "AttentionMetadata", "apply_rope"]


class AttentionMetadata(NamedTuple):
    """A step's token positions, their flat rows in the layer's KV cache, and its RoPE table."""

    position_BT: Any
    slot_mapping_BT: Any
    cos_LR: Any
    sin_LR: Any


def apply_rope(q_BTHQ: Any, k_BTKQ: Any, metadata: AttentionMetadata) -> tuple[Any, Any]:
    """Return queries and keys rotated by their tokens' positions (partial RoPE)."""
    rope_args = metadata.position_BT, metadata.cos_LR, metadata.sin_LR
    return rope_partial(q_BTHQ, *rope_args), rope_partial(k_BTKQ, *rope_args)


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
    """

    spec: AttentionSpec
    tensor_group: Group
    query_block: int
    attend: Callable[..., Any] = attend
    apply_rope: Callable[..., Any] = apply_rope

    def __call__(
        self,
        x_BTD: Any,
        metadata: AttentionMetadata,
        cache: KVCache,
        weights: AttentionWeights,
        *,
        kv_length: int,
    ) -> Any:
        """Return the attention output, `y_BTD`, and write keys and values into `cache`.

        The tokens attend to `kv_length` slots of every sequence; slots beyond must be empty.
        """
        B, T, D = x_BTD.shape
        if not B * T:  # no rank of the tensor group has tokens: none enters the all_reduce
            return x_BTD
        q_BTHQ = self._heads(x_BTD, weights.w_q_OD, self.spec.head_dim)
        k_BTKQ = self._heads(x_BTD, weights.w_k_OD, self.spec.head_dim)
        v_BTKC = self._heads(x_BTD, weights.w_v_OD, self.spec.v_head_dim)
        v_BTKC = v_BTKC * np.float32(self.spec.value_scale).astype(x_BTD.dtype)
        q_BTHQ, k_BTKQ = self.apply_rope(q_BTHQ, k_BTKQ, metadata)
        prior = prior_tokens(cache, sequences=B, kv_length=kv_length)
        y_BTHC = self.attend(
            q_BTHQ,
            k_BTKQ,
            v_BTKC,
            metadata.position_BT,
            *prior,
            weights.sink_H,
            window=self.spec.window,
            query_block=self.query_block,
        )
        write_tokens(cache, k_BTKQ, v_BTKC, metadata.position_BT, metadata.slot_mapping_BT)
        y_NI = np.reshape(y_BTHC, (B * T, -1))
        y_ND = self.tensor_group.all_reduce(ops.matmul(y_NI, weights.w_o_DI))
        return np.reshape(y_ND, (B, T, D)).astype(x_BTD.dtype)

    def _heads(self, x_BTD: Any, w_OD: Any, width: int) -> Any:
        """Return the projection of `x_BTD` to heads of `width`, in the dtype of `x_BTD`."""
        B, T, D = x_BTD.shape
        y_NO = ops.matmul(np.reshape(x_BTD, (B * T, D)), w_OD)
        return np.reshape(y_NO, (B, T, -1, width)).astype(x_BTD.dtype)
