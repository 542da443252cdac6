"""MTP head: a decoder layer that reads a token and the hidden state some tokens before it.

Source: SGLang `models/mimo_v2_nextn.py`. MiMo has three heads, each with weights and a KV cache of
its own: a sliding layer's attention, with sinks and value scale, and a dense network. They share
the model's embedding and LM head.
"""

from dataclasses import dataclass
from typing import Any

from mimo_v2_flash.checkpoint.params import MTPWeights
from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.mtp_input import mtp_input

from .decoder import DecoderLayer
from .embedding import embed
from .feed_forward import RankIds
from .forward_batch import AttentionMetadata
from .parallel_context import ParallelContext

__all__ = ["MTPHead"]


@dataclass(frozen=True)
class MTPHead:
    """MTP head, without its final norm: that is the first step of the shared LM head's program."""

    layer: DecoderLayer
    norm_epsilon: float

    @classmethod
    def build(cls, spec: LayerSpec, context: ParallelContext) -> "MTPHead":
        """Return the head whose decoder layer `spec` describes."""
        groups = context.tensor_group, context.expert_group
        return cls(DecoderLayer.build(spec, *groups, context.mode), spec.norm_epsilon)

    def __call__(
        self,
        token_N: Any,
        hidden_ND: Any,
        embedding_VD: Any,
        metadata: AttentionMetadata,
        rank_ids: RankIds,
        cache: KVCache,
        weights: MTPWeights,
        *,
        dispatcher: Dispatcher,
        dtype: str,
    ) -> Any:
        """Return the hidden states of the tokens, `x_ND`, and write them into `cache`.

        `hidden_ND` are the main model's, each of the token that belongs to this head.
        """
        x_ND = mtp_input(
            embed(token_N, embedding_VD, dtype=dtype),
            hidden_ND.astype(dtype),
            weights.embedding_norm_D,
            weights.hidden_norm_D,
            weights.w_eh_DI,
            epsilon=self.norm_epsilon,
        )
        return self.layer(x_ND, metadata, rank_ids, cache, weights.layer, dispatcher=dispatcher)
