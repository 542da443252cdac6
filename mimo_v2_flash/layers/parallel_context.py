"""A rank among those that share a model: its groups, its rows, its part of a step."""

from typing import Any

import numpy as np

from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.kernels.moe_block import Exchange
from mimo_v2_flash.parallel import ALONE, HostGroup, agree
from mimo_v2_flash.parallel_config import Plan

from .eager_dispatchers import EXCHANGES, Crowd
from .execution_mode import FORMS, Form
from .feed_forward import Rank

__all__ = ["Ranks"]


class Ranks:
    """A plan, seen from one of its ranks; every rank makes its own at the same time.

    Parameters
    ----------
    plan
        Who owns what.
    world
        All ranks.
    exchange
        A key of `token_exchange.EXCHANGES`: how tokens reach their experts; by the size of a step
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
        plan: Plan,
        world: HostGroup,
        exchange: str | None = None,
        form: Form = FORMS["host"],
    ) -> None:
        if plan.world != world.size:
            raise ValueError(f"the plan is for {plan.world} ranks, the group has {world.size}")
        if exchange not in (None, *EXCHANGES):
            raise ValueError(f"exchange {exchange!r}: allowed is {' or '.join(EXCHANGES)}")
        self.plan, self.world, self.form = plan, world, form
        self.agree(plan=plan, exchange=exchange)
        self.share = plan.share(world.rank)
        self.heads = form.group(world, plan.tensor_group)
        self.experts = form.group(world, plan.expert_group)
        numbers = self.share.tensor_rank, self.share.expert_rank
        self.number = Rank(*(np.array([number], np.int32) for number in numbers))
        self.together = form.world(world) if plan.expert_share < world.size else ALONE
        self._exchange = exchange

    def agree(self, **facts: Any) -> None:
        """Raise ValueError, naming fact and ranks, if ranks hold different facts."""
        if self.world.size > 1:
            agree(self.world, **{name: _told(fact) for name, fact in facts.items()})

    def batch(self, rows: int) -> int:
        """Return the rows of a batch with those that pad it: `Form.batch`."""
        return self.form.batch(rows, self.plan.data_parallel)

    def padded(self, x_BT: np.ndarray, padding: int) -> np.ndarray:
        """Return the rows of `x_BT`, and those that pad the batch."""
        more = self.batch(len(x_BT)) - len(x_BT)
        return np.pad(x_BT, ((0, more), (0, 0)), constant_values=padding)

    def rows(self, batch_size: int) -> slice:
        """Return which rows of the batch are here."""
        here = self.plan.rows(self.world.rank, batch_size)
        return slice(here.start, here.stop)

    def own_tokens(self, position_BT: np.ndarray, max_step: int) -> int:
        """Return how many tokens of a step each rank takes to the experts.

        Every rank takes as many, padding among them where it has fewer.
        """
        count_B = np.sum(position_BT >= 0, axis=1)
        T, tokens = self.plan.tensor_parallel, []
        for rank in range(0, self.plan.world, T):
            rows = self.plan.rows(rank, len(count_B))
            longest = max(count_B[rows.start : rows.stop], default=0)
            tokens.append(len(rows) * self.form.length(int(longest), max_step))
        return -(-max(tokens) // T)

    def exchanges(self, spec: LayerSpec, tokens: int, own: int) -> tuple[Exchange, ...]:
        """Return how a step's tokens reach the experts of a layer: `Form.exchanges`."""
        chosen = spec.experts, spec.experts_per_token
        return self.form.exchanges(
            self._exchange, Crowd(tokens, own, self.plan.expert_share, *chosen)
        )


def _told(fact: Any) -> Any:
    """Return `fact`, or what tells an array from another one."""
    return (fact.shape, fact.tolist()) if isinstance(fact, np.ndarray) else fact
