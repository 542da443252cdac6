"""A rank among those that share a model: its groups, its rows, its part of a step."""

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
    """A plan, seen from one of its ranks; every rank makes its own at the same time.

    Parameters
    ----------
    plan
        Who owns what.
    world
        All ranks.
    exchange
        A key of `token_exchange.DISPATCHERS`: how tokens reach their experts; by the size of a step
        if not given.
    form
        Of the layers.

    Attributes
    ----------
    share
        The weights of this rank.
    heads, experts
        The ranks that heads and experts are split over, this one among them.
    together
        The ranks that must know of each other's overflow, where those that share experts do not.
    number
        This rank's places in them, as data.

    Raises
    ------
    ValueError
        If the world has not as many ranks as the plan, the exchange is unknown, or ranks differ.
    """

    def __init__(
        self,
        plan: ParallelConfig,
        world: HostGroup,
        exchange: str | None = None,
        form: ExecutionMode = EXECUTION_MODES["eager"],
    ) -> None:
        if plan.world_size != world.size:
            raise ValueError(f"the plan is for {plan.world_size} ranks, the group has {world.size}")
        if exchange not in (None, *DISPATCHERS):
            raise ValueError(f"exchange {exchange!r}: allowed is {' or '.join(DISPATCHERS)}")
        self.config, self.world_group, self.mode = plan, world, form
        self.check_consistent(plan=plan, exchange=exchange)
        self.shard_spec = plan.shard_spec(world.rank)
        self.tensor_group = form.group(world, plan.tensor_group_ranks)
        self.expert_group = form.group(world, plan.expert_group_ranks)
        numbers = self.shard_spec.tensor_parallel_rank, self.shard_spec.expert_parallel_rank
        self.rank_ids = RankIds(*(np.array([number], np.int32) for number in numbers))
        self.overflow_group = form.world(world) if plan.expert_parallel_size < world.size else ALONE
        self._dispatcher = exchange

    def check_consistent(self, **facts: Any) -> None:
        """Raise ValueError, naming fact and ranks, if ranks hold different facts."""
        if self.world_group.size > 1:
            check_consistent(
                self.world_group, **{name: _told(fact) for name, fact in facts.items()}
            )

    def padded_batch_size(self, rows: int) -> int:
        """Return the rows of a batch with those that pad it: `ExecutionMode.batch`."""
        return self.mode.batch(rows, self.config.data_parallel_size)

    def pad_batch(self, x_BT: np.ndarray, padding: int) -> np.ndarray:
        """Return the rows of `x_BT`, and those that pad the batch."""
        more = self.padded_batch_size(len(x_BT)) - len(x_BT)
        return np.pad(x_BT, ((0, more), (0, 0)), constant_values=padding)

    def batch_slice(self, batch_size: int) -> slice:
        """Return which rows of the batch are here."""
        here = self.config.batch_range(self.world_group.rank, batch_size)
        return slice(here.start, here.stop)

    def local_tokens(self, position_BT: np.ndarray, max_step: int) -> int:
        """Return how many tokens of a step each rank takes to the experts.

        Every rank takes as many, padding among them where it has fewer.
        """
        count_B = np.sum(position_BT >= 0, axis=1)
        T, tokens = self.config.tensor_parallel_size, []
        for rank in range(0, self.config.world_size, T):
            rows = self.config.batch_range(rank, len(count_B))
            longest = max(count_B[rows.start : rows.stop], default=0)
            tokens.append(len(rows) * self.mode.length(int(longest), max_step))
        return -(-max(tokens) // T)

    def dispatchers(
        self, spec: LayerSpec, tokens: int, local_tokens: int
    ) -> tuple[Dispatcher, ...]:
        """Return how a step's tokens reach the experts of a layer: `ExecutionMode.dispatchers`."""
        chosen = spec.num_experts, spec.experts_per_token
        return self.mode.dispatchers(
            self._dispatcher,
            MoEStepShape(tokens, local_tokens, self.config.expert_parallel_size, *chosen),
        )


def _told(fact: Any) -> Any:
    """Return `fact`, or what tells an array from another one."""
    return (fact.shape, fact.tolist()) if isinstance(fact, np.ndarray) else fact
