"""Eager execution mode, of a host: shapes follow the data, and padding is never computed."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.execution.pytree import tree_map
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.parallel import ALONE, Group, HostGroup
from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight

from .eager_attention import FEW_TOKENS, eager_attend
from .eager_dispatchers import eager_dispatchers
from .eager_experts import eager_experts
from .eager_kernels import eager_norm, eager_rotate, eager_router
from .forward_batch import ForwardBatch, SequenceRun, Step

__all__ = ["EagerMode"]


class EagerMode:
    """Eager execution: flat passes of real tokens, ragged dispatch, only chosen experts.

    `execution_mode.ExecutionMode` says what each method is for.
    """

    pads_steps = False
    attend = staticmethod(eager_attend)
    expert_fn = staticmethod(eager_experts)
    norm = staticmethod(eager_norm)
    rotate = staticmethod(eager_rotate)
    router = staticmethod(eager_router)
    dispatchers = staticmethod(eager_dispatchers)

    def build_group(self, world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
        """Return this rank's group; `ALONE` if the rank is its only member."""
        ranks = ranks_of(world.rank)
        return world.split(ranks) if len(ranks) > 1 else ALONE

    def build_overflow_group(self, world: HostGroup) -> Group:
        """Return `ALONE`: nothing overflows."""
        return ALONE

    def layers_per_program(self, rows: int) -> int:
        """Return 1: calls of functions cost nothing, and hooks are called between layers."""
        return 1

    def split_tokens(self, x_N: Any, rank_1: Any, ranks: int, *, padding: int) -> Any:
        """Return this rank's part of the tokens, which is empty if there are few."""
        part, rank = -(-len(x_N) // ranks), int(rank_1[0])
        return x_N[rank * part : (rank + 1) * part]

    def sequences(self, rank_rows: tuple[slice, ...], rank: int) -> int:
        """Return the number of this rank's sequences."""
        return rank_rows[rank].stop - rank_rows[rank].start

    def batches(self, step: Step, cache: HybridCache, max_step: int) -> Iterator[ForwardBatch]:
        """Yield passes of up to `max_step` tokens of a rank, row after row."""
        before_B = np.cumsum(step.count_B) - step.count_B
        for rows in cache.rank_rows:
            before_B[rows] -= before_B[rows][:1]
        for start in range(0, int(np.max(before_B + step.count_B)), max_step):
            first_B = np.clip(start - before_B, 0, step.count_B)
            end_B = np.clip(start + max_step - before_B, 0, step.count_B)
            yield _batch(step, first_B, end_B - first_B, cache)

    def select_rows(
        self, batch: ForwardBatch, index_Bn: np.ndarray, is_in_pass_Bn: np.ndarray, rows: slice
    ) -> tuple[np.ndarray, Any]:
        """Return the tokens of the pass whose outputs are wanted, and no others."""
        row_bn = batch.first_token_b[:, None] + index_Bn[rows]
        return row_bn[is_in_pass_Bn[rows]].astype(np.int32), slice(None)

    def cache_length(self, length: int, limit: int) -> int:
        """Return `length`, which is not above `limit`."""
        return length

    def kv_length(self, kv_length: int, slots: int) -> int:
        """Return the slots that hold a token."""
        return min(kv_length, slots)

    def process_weights(self, weights: ModelWeights, compute: str) -> ModelWeights:
        """Return the weights as loaded; those of products know what rounds their activations."""

        def rounding(path: str, weight: Any) -> Any:
            is_router = "w_router_ED" in path  # what it chooses is not to hang on rounding
            is_multiplied = ".w_" in f".{path}" and not is_router
            return ActivationQuantizedWeight(weight, compute) if is_multiplied else weight

        if compute == "float32":
            return weights
        rounded: ModelWeights = tree_map(rounding, weights, leaf=QuantizedTensor)
        return rounded


def _batch(
    step: Step, first_B: np.ndarray, count_B: np.ndarray, cache: HybridCache
) -> ForwardBatch:
    """Return the real tokens of this rank's rows in a pass, row after row."""
    rows, start_B = cache.local_rows, step.start_B + first_B
    start_b, first_b, count_b = start_B[rows], first_B[rows], count_B[rows]
    first_token_b = np.cumsum(count_b) - count_b
    row_N = np.repeat(np.arange(len(count_b)), count_b)
    index_N = np.arange(len(row_N)) - first_token_b[row_N]  # in the row's part of the pass
    return ForwardBatch(
        first_B,
        start_B,
        count_B,
        token_N=step.token_BT[rows][row_N, first_b[row_N] + index_N],
        position_N=(start_b[row_N] + index_N).astype(np.int32),
        row_N=cache.first_row + row_N,
        end_N=(start_b + count_b)[row_N],
        first_token_b=first_token_b,
        runs=_sequence_runs(start_b, count_b, first_token_b, cache.first_row),
        longest=max(int(np.sum(count_B[part])) for part in cache.rank_rows),
    )


def _sequence_runs(
    start_b: np.ndarray, count_b: np.ndarray, first_token_b: np.ndarray, first_row: int
) -> tuple[SequenceRun, ...]:
    """Return the rectangles of a pass.

    All one-token sequences are one run over the rows that they span, idle ones masked, and so are
    those of few tokens, padded. Of the others, neighbours with equally many tokens are one run.
    """
    (single_J,) = np.nonzero(count_b == 1)
    (few_J,) = np.nonzero((count_b > 1) & (count_b <= FEW_TOKENS))
    (several_J,) = np.nonzero(count_b > FEW_TOKENS)
    is_cut_J = (np.diff(several_J) > 1) | (np.diff(count_b[several_J]) != 0)
    groups = [single_J, few_J, *np.split(several_J, np.nonzero(is_cut_J)[0] + 1)]
    return tuple(
        _run(rows_J, start_b, count_b, first_token_b, first_row) for rows_J in groups if len(rows_J)
    )


def _run(
    rows_J: np.ndarray,
    start_b: np.ndarray,
    count_b: np.ndarray,
    first_token_b: np.ndarray,
    first_row: int,
) -> SequenceRun:
    """Return the run of some rows, over all rows that they span."""
    first, count_J, token_BT = int(rows_J[0]), count_b[rows_J], None
    rows, tokens = int(rows_J[-1]) - first + 1, int(np.max(count_J))
    if rows > len(rows_J) or np.any(count_J < tokens):
        token_JT = first_token_b[rows_J][:, None] + np.arange(tokens)
        token_BT = np.full((rows, tokens), -1)
        token_BT[rows_J - first] = np.where(np.arange(tokens) < count_J[:, None], token_JT, -1)
    return SequenceRun(
        first_row + first,
        rows,
        tokens,
        int(first_token_b[first]),
        token_BT,
        kv_length=int(np.max(start_b[rows_J])),
    )
