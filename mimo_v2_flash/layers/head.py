"""LM head: final norm, then vocab-parallel logits or greedy tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.kernels.sampling import greedy
from mimo_v2_flash.parallel import Group

from .parallel_context import ParallelContext

__all__ = ["GreedyHead", "LMHead", "LogitsHead"]


@dataclass(frozen=True)
class LogitsHead:
    """Head program that computes the logits of this rank's part of the vocabulary."""

    norm_epsilon: float

    def __call__(self, x_BTD: Any, row_N: Any, norm_D: Any, w_VD: Any) -> Any:
        """Return the next-token logits of rows `row_N` of the flat B x T hidden states, float32."""
        x_ND = np.take(np.reshape(x_BTD, (-1, x_BTD.shape[2])), row_N, axis=0)
        y_1ND = rmsnorm(np.expand_dims(x_ND, 0), norm_D, epsilon=self.norm_epsilon)
        return lm_head(y_1ND[0], w_VD)


@dataclass(frozen=True)
class GreedyHead:
    """Head program that computes the greedy token, over a vocabulary split over `tensor_group`.

    Of equal logits the lowest token id wins, on one rank and on many alike. Two tokens with equal
    weights need not have equal logits: a BLAS may sum their columns in different orders, and their
    logits then differ in the last bits.
    """

    logits_head: LogitsHead
    tensor_group: Group

    def __call__(self, x_BTD: Any, row_N: Any, norm_D: Any, w_VD: Any, vocab_start_1: Any) -> Any:
        """Return (token_N, logit_N): the lowest id of the largest logit, and that logit."""
        logits_NV = self.logits_head(x_BTD, row_N, norm_D, w_VD)
        best_PN = self.tensor_group.all_gather(np.max(logits_NV, axis=1))
        token_PN = self.tensor_group.all_gather(greedy(logits_NV) + vocab_start_1)
        rank_1N = np.expand_dims(np.argmax(best_PN, axis=0).astype(np.int32), 0)
        token_1N, best_1N = (np.take_along_axis(x, rank_1N, axis=0) for x in (token_PN, best_PN))
        return token_1N[0], best_1N[0]


class LMHead:
    """LM head: gives every rank the logits, or the greedy tokens, of all rows of the batch.

    Parameters
    ----------
    config
        The model's config.
    backend
        The backend that compiles the head programs.
    context
        The ranks that rows and vocabulary are split over.
    """

    def __init__(self, config: MiMoConfig, backend: Backend, context: ParallelContext) -> None:
        self._context, self._vocab_size = context, config.vocab_size
        self._vocab_range = context.shard_spec.tensor_range(config.vocab_size)
        self._vocab_start_1 = np.array([self._vocab_range.start], np.int32)
        logits_head = LogitsHead(config.layernorm_epsilon)
        self._logits_head = backend.compile(logits_head)
        self._greedy_head = backend.compile(GreedyHead(logits_head, context.tensor_group))

    def logits(
        self, x_bTD: Any, index_Bn: np.ndarray, weights: ModelWeights, *, rows: slice
    ) -> np.ndarray:
        """Return the logits after the tokens at `index_Bn` of every row, float32 [B, n, vocab].

        The hidden states `x_bTD` are those of this rank's `rows` only.
        """
        (B, n), vocab_range = index_Bn.shape, self._vocab_range
        if self._context.world_group.size == 1 and x_bTD.shape[1]:
            logits_NV = self._logits_head(*_head_args(x_bTD, index_Bn, weights))
            return np.reshape(np.asarray(logits_NV), (B, n, self._vocab_size))
        logits_BnV = np.zeros((B, n, self._vocab_size), np.float32)
        if x_bTD.shape[0] * x_bTD.shape[1]:
            logits_Nv = self._logits_head(*_head_args(x_bTD, index_Bn[rows], weights))
            logits_bnv = np.reshape(np.asarray(logits_Nv), (x_bTD.shape[0], n, len(vocab_range)))
            logits_BnV[rows, :, vocab_range.start : vocab_range.stop] = logits_bnv
        return self._context.world_group.all_reduce(logits_BnV)  # all but one rank add zero

    def greedy(
        self, x_bTD: Any, index_Bn: np.ndarray, weights: ModelWeights, *, rows: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (token_Bn, logit_Bn): the greedy tokens after the tokens at `index_Bn`."""
        context = self._context
        if (
            self._vocab_size < context.parallel_config.tensor_parallel_size
        ):  # some ranks have no token
            logits_BnV = self.logits(x_bTD, index_Bn, weights, rows=rows)
            return np.argmax(logits_BnV, axis=2).astype(np.int32), np.max(logits_BnV, axis=2)
        token_Bn = np.zeros(index_Bn.shape, np.int32)
        logit_Bn = np.zeros(index_Bn.shape, np.float32)
        if x_bTD.shape[0] * x_bTD.shape[1]:
            args = *_head_args(x_bTD, index_Bn[rows], weights), self._vocab_start_1
            token_N, logit_N = map(np.asarray, self._greedy_head(*args))
            if context.shard_spec.tensor_parallel_rank == 0:  # the others have the same
                token_Bn[rows] = np.reshape(token_N, (-1, index_Bn.shape[1]))
                logit_Bn[rows] = np.reshape(logit_N, (-1, index_Bn.shape[1]))
        world_group = context.world_group
        return world_group.all_reduce(token_Bn), world_group.all_reduce(logit_Bn)


def _head_args(x_bTD: Any, index_bn: np.ndarray, weights: ModelWeights) -> tuple[Any, ...]:
    """Return a head program's arguments, with `index_bn` as flat rows, at most the last column."""
    b, T, _ = x_bTD.shape
    row_bn = np.arange(b)[:, None] * T + np.minimum(index_bn, T - 1)
    row_N = np.reshape(row_bn, -1).astype(np.int32)
    return x_bTD, row_N, weights.final_norm_D, weights.w_logits_VD
