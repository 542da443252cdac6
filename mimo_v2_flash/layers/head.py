"""LM head: final norm, then vocab-parallel logits or greedy tokens."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import Backend
from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.kernels.sampling import greedy
from mimo_v2_flash.parallel import Group

from .parallel_context import ParallelContext

__all__ = ["GreedyHead", "GreedyTokens", "HeadOutput", "Logits", "LogitsHead", "as_greedy"]


@dataclass(frozen=True)
class LogitsHead:
    """Head program that computes the logits of this rank's part of the vocabulary."""

    norm_epsilon: float

    def __call__(self, x_ND: Any, row_N: Any, norm_D: Any, w_VD: Any) -> Any:
        """Return the next-token logits of the tokens `row_N` of the batch, float32."""
        y_ND = rmsnorm(np.take(x_ND, row_N, axis=0), norm_D, epsilon=self.norm_epsilon)
        return lm_head(y_ND, w_VD)


@dataclass(frozen=True)
class GreedyHead:
    """Head program that computes the greedy token, over a vocabulary split over `tensor_group`.

    Of equal logits the lowest token id wins, on one rank and on many alike. Two tokens with equal
    weights need not have equal logits: a BLAS may sum their columns in different orders, and their
    logits then differ in the last bits.
    """

    logits_head: LogitsHead
    tensor_group: Group

    def __call__(self, x_ND: Any, row_N: Any, norm_D: Any, w_VD: Any, vocab_start_1: Any) -> Any:
        """Return (token_N, logit_N): the lowest id of the largest logit, and that logit."""
        logits_NV = self.logits_head(x_ND, row_N, norm_D, w_VD)
        best_PN = self.tensor_group.all_gather(np.max(logits_NV, axis=1))
        token_PN = self.tensor_group.all_gather(greedy(logits_NV) + vocab_start_1)
        rank_1N = np.expand_dims(np.argmax(best_PN, axis=0).astype(np.int32), 0)
        token_1N, best_1N = (np.take_along_axis(x, rank_1N, axis=0) for x in (token_PN, best_PN))
        return token_1N[0], best_1N[0]


class HeadOutput(Protocol):
    """An output of the head for the tokens of all rows: protocol of `Logits`, `GreedyTokens`."""

    def allocate(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Return zeros for outputs at tokens [B, n]."""

    def fill(
        self,
        outputs: tuple[np.ndarray, ...],
        is_wanted_bn: np.ndarray,
        x_ND: Any,
        row_N: np.ndarray,
        kept: Any,
        weights: ModelWeights,
    ) -> None:
        """Write this rank's part of the outputs of its own rows; all ranks' parts add up.

        The head computes the tokens `row_N` of `x_ND`, of which those in `kept` are the wanted.

        Parameters
        ----------
        outputs : tuple of array
            What is written into.
        is_wanted_bn : array of bool
            Wanted tokens of this rank's rows.
        x_ND : array
            Hidden states of the pass.
        row_N : array of int
            Tokens that the head computes.
        kept : index
            Which of its outputs are wanted.
        weights : ModelWeights
            The model's weights.
        """

    def parts(self, outputs: tuple[np.ndarray, ...], rank: int) -> tuple[np.ndarray, ...]:
        """Return what `rank` fills of its rows, as views of `outputs`."""


def as_greedy(outputs: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return (token_Bn, logit_Bn), from the outputs of `GreedyTokens` or of `Logits`."""
    if len(outputs) == 1:
        return np.argmax(outputs[0], axis=2).astype(np.int32), np.max(outputs[0], axis=2)
    return outputs[0], outputs[1]


class Logits:
    """Logits of all rows, of which each rank computes its part of the vocabulary.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    backend : Backend
        What compiles the head.
    context : ParallelContext
        This rank's groups.
    """

    def __init__(self, config: MiMoConfig, backend: Backend, context: ParallelContext) -> None:
        self._vocab_size, self._shard_spec = config.vocab_size, context.parallel_config.shard_spec
        self._vocab_range = context.shard_spec.tensor_range(config.vocab_size)
        self._head = backend.compile(LogitsHead(config.layernorm_epsilon))

    def allocate(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Return (logits_BnV,), zeros."""
        return (np.zeros((*shape, self._vocab_size), np.float32),)

    def fill(
        self,
        outputs: tuple[np.ndarray, ...],
        is_wanted_bn: np.ndarray,
        x_ND: Any,
        row_N: np.ndarray,
        kept: Any,
        weights: ModelWeights,
    ) -> None:
        """Write the logits of this rank's tokens of the vocabulary."""
        logits_Nv = self._head(x_ND, row_N, weights.final_norm_D, weights.w_logits_VD)
        v = self._vocab_range
        outputs[0][is_wanted_bn, v.start : v.stop] = np.asarray(logits_Nv)[kept]

    def parts(self, outputs: tuple[np.ndarray, ...], rank: int) -> tuple[np.ndarray, ...]:
        """Return the rank's part of the vocabulary."""
        v = self._shard_spec(rank).tensor_range(self._vocab_size)
        return (outputs[0][..., v.start : v.stop],)


class GreedyTokens:
    """Greedy tokens of all rows and their logits; the argmax is part of the head program.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    backend : Backend
        What compiles the head.
    context : ParallelContext
        This rank's groups.
    """

    def __init__(self, config: MiMoConfig, backend: Backend, context: ParallelContext) -> None:
        self._shard, self._shard_spec = context.shard_spec, context.parallel_config.shard_spec
        vocab_range = self._shard.tensor_range(config.vocab_size)
        self._vocab_start_1 = np.array([vocab_range.start], np.int32)
        self._head = backend.compile(
            GreedyHead(LogitsHead(config.layernorm_epsilon), context.tensor_group)
        )

    def allocate(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Return (token_Bn, logit_Bn), zeros."""
        return np.zeros(shape, np.int32), np.zeros(shape, np.float32)

    def fill(
        self,
        outputs: tuple[np.ndarray, ...],
        is_wanted_bn: np.ndarray,
        x_ND: Any,
        row_N: np.ndarray,
        kept: Any,
        weights: ModelWeights,
    ) -> None:
        """Write tokens and logits on the first rank of a tensor group: the others have the same."""
        results_N = self._head(
            x_ND, row_N, weights.final_norm_D, weights.w_logits_VD, self._vocab_start_1
        )
        if self._shard.tensor_parallel_rank == 0:
            for output, result_N in zip(outputs, results_N, strict=True):
                output[is_wanted_bn] = np.asarray(result_N)[kept]

    def parts(self, outputs: tuple[np.ndarray, ...], rank: int) -> tuple[np.ndarray, ...]:
        """Return all outputs for the first rank of a tensor group, none for the others."""
        return outputs if self._shard_spec(rank).tensor_parallel_rank == 0 else ()
