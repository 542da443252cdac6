"""Outputs of a step, at the wanted tokens of all rows: filled pass by pass, joined over ranks."""

from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.kv_cache import HybridCache

from .forward_batch import ForwardBatch, Step
from .head import HeadOutput
from .output_shares import gather_outputs
from .parallel_context import ParallelContext

__all__ = ["StepOutputs"]


class StepOutputs:
    """What the LM head computes at the wanted tokens of a step, on one of the ranks.

    Parameters
    ----------
    output
        Which output.
    weights
        The weights of the LM head and of the norm before it.
    step, cache, context
        The step, the rows that it is about, and this rank's part of it.

    Attributes
    ----------
    is_bad_B
        Rows of this rank with NaN or infinity anywhere, which the caller marks.
    """

    def __init__(
        self,
        output: HeadOutput,
        weights: ModelWeights,
        step: Step,
        cache: HybridCache,
        context: ParallelContext,
    ) -> None:
        self._output, self._weights, self._step = output, weights, step
        self._cache, self._context = cache, context
        self._outputs = output.allocate(step.index_Bn.shape)
        self.is_bad_B = np.zeros(len(step.count_B), bool)

    def fill(self, batch: ForwardBatch, x_ND: Any) -> None:
        """Compute this rank's part of the outputs of a pass, from its hidden states."""
        rows = self._cache.local_rows
        index_Bn = self._step.index_Bn - batch.first_B[:, None]
        is_in_pass_Bn = (index_Bn >= 0) & (index_Bn < batch.count_B[:, None])
        row_N, kept = self._context.mode.select_rows(batch, index_Bn, is_in_pass_Bn, rows)
        if len(row_N):
            local = tuple(array[rows] for array in self._outputs)
            with np.errstate(invalid="ignore", over="ignore"):
                self._output.fill(local, is_in_pass_Bn[rows], x_ND, row_N, kept, self._weights)

    def on_all_ranks(self) -> tuple[np.ndarray, ...]:
        """Return the outputs of all rows, the last one NaN in bad rows: a collective call."""
        self._outputs[-1][self.is_bad_B] = np.nan
        group = self._context.world_group
        return tuple(map(group.all_reduce, self._outputs)) if group.size > 1 else self._outputs

    def on_rank_0(self) -> tuple[np.ndarray, ...]:
        """Return on rank 0 what `on_all_ranks` does, else nothing of use: a collective call."""
        outputs, rank_rows = self._outputs, self._cache.rank_rows
        outputs[-1][self.is_bad_B] = np.nan
        if self._context.world_group.size > 1:
            is_wanted_Bn = self._step.index_Bn >= 0
            is_bad_b = self.is_bad_B[self._cache.local_rows]
            gather_outputs(self._output, outputs, is_bad_b, is_wanted_Bn, rank_rows, self._context)
        return outputs
