"""Execution modes: eager (shapes follow the data) and static (fixed shapes, for programs)."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.kernels.moe_block import Dispatcher, ExpertFn
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.parallel import Group, HostGroup

from .eager_dispatchers import MoEStepShape
from .eager_mode import EagerMode
from .forward_batch import ForwardBatch, Step
from .static_mode import StaticMode

__all__ = ["EXECUTION_MODES", "ExecutionMode"]


class ExecutionMode(Protocol):
    """All that differs between eager and static execution; a backend names its mode.

    Attributes
    ----------
    pads_steps
        Whether a step's rows are padded to the longest of them.
    attend
        The attention of a rectangle of tokens, as `eager_attention.attend`.
    expert_fn
        Computes a rank's experts on their tokens, as `grouped_experts`.
    norm, rotate, router
        RMSNorm, rotation and router, as `rmsnorm`, `rope_partial` and `moe_router`.
    """

    pads_steps: bool
    attend: Callable[..., Any]
    expert_fn: ExpertFn
    norm: Callable[..., Any]
    rotate: Callable[..., Any]
    router: Callable[..., Any]

    def build_group(self, world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
        """Return this rank's group, from the function that gives the ranks of a rank's group."""

    def build_overflow_group(self, world: HostGroup) -> Group:
        """Return the group over which the overflow counts of MoE layers are summed."""

    def dispatchers(self, name: str | None, shape: MoEStepShape) -> tuple[Dispatcher, ...]:
        """Return the dispatchers to try, one after the other until none overflows.

        `name` is a key of `eager_dispatchers.DISPATCHERS`, or None for that of the step's size.
        """

    def layers_per_program(self, rows: int) -> int:
        """Return how many layers a program for `rows` tokens, those of all ranks, may have."""

    def split_tokens(self, x_N: Any, rank_1: Any, ranks: int, *, padding: int) -> Any:
        """Return the part that this rank dispatches of the tokens [N, ...] of a tensor group.

        Parameters
        ----------
        x_N : array, [N, ...]
            Tokens of the tensor group.
        rank_1 : array of int32, [1]
            This rank in the group.
        ranks : int
            Number of its ranks.
        padding : int
            What padded entries have.
        """

    def sequences(self, rank_rows: tuple[slice, ...], rank: int) -> int:
        """Return how many sequences a rank's cache has room for, from the rows of all ranks."""

    def batches(self, step: Step, cache: HybridCache, max_step: int) -> Iterator[ForwardBatch]:
        """Yield the passes of a step, with up to `max_step` tokens on each rank.

        Parameters
        ----------
        step : Step
            Tokens at positions.
        cache : HybridCache
            Keys and values.
        max_step : int
            The most tokens of a pass.
        """

    def select_rows(
        self, batch: ForwardBatch, index_Bn: np.ndarray, is_in_pass_Bn: np.ndarray, rows: slice
    ) -> tuple[np.ndarray, Any]:
        """Return (row_N, kept): the tokens for the head, and which of its outputs are wanted.

        `index_Bn` are indices into each row's part of the pass, `is_in_pass_Bn` says which of them
        lie in it. Outputs that are kept are in the order of this rank's wanted tokens.

        Parameters
        ----------
        batch : ForwardBatch
            The pass.
        index_Bn : array of int
            Index of each wanted token in its row's part of the pass.
        is_in_pass_Bn : array of bool
            Which of them lie in the pass.
        rows : slice
            This rank's rows.
        """

    def cache_length(self, length: int, limit: int) -> int:
        """Return the slots of a cache for sequences of `length` tokens, at most `limit`."""

    def kv_length(self, kv_length: int, slots: int) -> int:
        """Return the slots to attend to, where `kv_length` tokens came before."""

    def process_weights(self, weights: ModelWeights, compute: str) -> ModelWeights:
        """Return loaded weights as the layers take them, for products of a compute type."""


EXECUTION_MODES: dict[str, ExecutionMode] = {"eager": EagerMode(), "static": StaticMode()}
