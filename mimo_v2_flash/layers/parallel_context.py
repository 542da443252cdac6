"""Parallel context of one rank: its process groups, its weight shard, its part of a step."""

from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.parallel import ALONE, HostGroup, check_consistent
from mimo_v2_flash.parallel_config import ParallelConfig

from .eager_dispatchers import DISPATCHERS, MoEStepShape
from .execution_mode import EXECUTION_MODES, ExecutionMode
from .feed_forward import RankIds

__all__ = ["ParallelContext"]


class ParallelContext:
    """One rank's groups and shard under a `ParallelConfig`, as Megatron's `parallel_state`.

    The constructor is a collective: every rank must call it.

    Parameters
    ----------
    plan
        The parallel config: how weights and batch are split over the ranks.
    world
        The group of all ranks.
    exchange
        A key of `eager_dispatchers.DISPATCHERS`, the MoE dispatcher; by the size of a step if None.
    mode
        The execution mode of the layers.

    Attributes
    ----------
    config, world_group, mode
        The parameters `plan`, `world` and `mode`.
    shard_spec
        The weights that this rank holds.
    tensor_group, expert_group
        The groups of this rank that heads and experts are split over.
    overflow_group
        The group over which the expert groups' overflow counts are summed.
    rank_ids
        This rank's numbers in the tensor and the expert group, as tensors.

    Raises
    ------
    ValueError
        If the world size is not the parallel config's, the dispatcher is unknown, or ranks differ.
    """

    def __init__(
        self,
        plan: ParallelConfig,
        world: HostGroup,
        exchange: str | None = None,
        mode: ExecutionMode = EXECUTION_MODES["eager"],
    ) -> None:
        if plan.world_size != world.size:
            raise ValueError(
                f"world size mismatch: the plan is for {plan.world_size} ranks, "
                f"the group has {world.size}"
            )
        if exchange not in (None, *DISPATCHERS):
            raise ValueError(f"exchange {exchange!r}: allowed is {' or '.join(DISPATCHERS)}")
        self.config, self.world_group, self.mode = plan, world, mode
        self.check_consistent(plan=plan, exchange=exchange)
        self.shard_spec = plan.shard_spec(world.rank)
        self.tensor_group = mode.build_group(world, plan.tensor_group_ranks)
        self.expert_group = mode.build_group(world, plan.expert_group_ranks)
        ranks = self.shard_spec.tensor_parallel_rank, self.shard_spec.expert_parallel_rank
        self.rank_ids = RankIds(*(np.array([rank], np.int32) for rank in ranks))
        self.overflow_group = (
            mode.build_overflow_group(world) if plan.expert_parallel_size < world.size else ALONE
        )
        self._dispatcher = exchange

    def check_consistent(self, **facts: Any) -> None:
        """Raise ValueError, naming the fact and the ranks, if ranks pass different facts."""
        if self.world_group.size > 1:
            comparable = {name: _comparable(fact) for name, fact in facts.items()}
            check_consistent(self.world_group, **comparable)

    def padded_batch_size(self, rows: int) -> int:
        """Return the batch size with padding rows: `ExecutionMode.pad_batch_size`."""
        return self.mode.pad_batch_size(rows, self.config.data_parallel_size)

    def pad_batch(self, x_BT: np.ndarray, padding: int) -> np.ndarray:
        """Return the rows of `x_BT`, then padding rows."""
        count = self.padded_batch_size(len(x_BT)) - len(x_BT)
        return np.pad(x_BT, ((0, count), (0, 0)), constant_values=padding)

    def batch_slice(self, batch_size: int) -> slice:
        """Return this rank's rows of the batch."""
        rows = self.config.batch_range(self.world_group.rank, batch_size)
        return slice(rows.start, rows.stop)

    def local_tokens(self, position_BT: np.ndarray, max_step: int) -> int:
        """Return how many tokens of a step each rank dispatches to the experts.

        The number is the same on every rank; a rank with fewer tokens dispatches padding.
        """
        count_B = np.sum(position_BT >= 0, axis=1)
        T, tokens = self.config.tensor_parallel_size, []
        for rank in range(0, self.config.world_size, T):
            rows = self.config.batch_range(rank, len(count_B))
            longest = max(count_B[rows.start : rows.stop], default=0)
            tokens.append(len(rows) * self.mode.step_length(int(longest), max_step))
        return -(-max(tokens) // T)

    def dispatchers(
        self, spec: LayerSpec, tokens: int, local_tokens: int
    ) -> tuple[Dispatcher, ...]:
        """Return the dispatchers of a step in a layer: `ExecutionMode.dispatchers`."""
        experts = spec.num_experts, spec.experts_per_token
        shape = MoEStepShape(tokens, local_tokens, self.config.expert_parallel_size, *experts)
        return self.mode.dispatchers(self._dispatcher, shape)


def _comparable(fact: Any) -> Any:
    """Return `fact`, or the shape and values of an array, whose `repr` may be abbreviated."""
    return (fact.shape, fact.tolist()) if isinstance(fact, np.ndarray) else fact
