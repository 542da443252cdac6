"""A rank among those that share a model: its groups, its rows, its part of a step."""

from typing import Any

import numpy as np

from mimo_v2_flash.groups import HostGroup, agree
from mimo_v2_flash.kernels.moe_block import Exchange
from mimo_v2_flash.plan import Plan

from .feed_forward import Rank
from .forms import FORMS, Form

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
        A key of the form's `exchanges`: how tokens reach their experts; by the size of a step if
        not given.
    form
        Of the layers.

    Attributes
    ----------
    share
        The weights of this rank.
    heads, experts
        The ranks that heads and experts are split over, this one among them.
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
        if exchange not in (None, *form.exchanges):
            raise ValueError(f"exchange {exchange!r}: allowed is {' or '.join(form.exchanges)}")
        self.plan, self.world, self.form = plan, world, form
        self.agree(plan=plan, exchange=exchange)
        self.share = plan.share(world.rank)
        self.heads = form.group(world, plan.tensor_group)
        self.experts = form.group(world, plan.expert_group)
        numbers = self.share.tensor_rank, self.share.expert_rank
        self.number = Rank(*(np.array([number], np.int32) for number in numbers))
        self._exchange = exchange and form.exchanges[exchange]

    def agree(self, **facts: Any) -> None:
        """Raise ValueError, naming fact and ranks, if ranks hold different facts."""
        if self.world.size > 1:
            agree(self.world, **{name: _told(fact) for name, fact in facts.items()})

    def rows(self, batch_size: int) -> slice:
        """Return which rows of the batch are here."""
        here = self.plan.rows(self.world.rank, batch_size)
        return slice(here.start, here.stop)

    def way(self, position_BT: np.ndarray, max_step: int) -> tuple[Exchange, int]:
        """Return how the tokens of a step reach their experts, and how many each rank takes.

        Every rank takes as many, padding among them where it has fewer.
        """
        count_B = np.sum(position_BT >= 0, axis=1)
        T, tokens = self.plan.tensor_parallel, []
        for rank in range(0, self.plan.world, T):
            rows = self.plan.rows(rank, len(count_B))
            longest = max(count_B[rows.start : rows.stop], default=0)
            tokens.append(len(rows) * self.form.length(int(longest), max_step))
        exchange = self._exchange or self.form.exchange_for(int(np.sum(count_B)))
        return exchange, -(-max(tokens) // T)


def _told(fact: Any) -> Any:
    """Return `fact`, or what tells an array from another one."""
    return (fact.shape, fact.tolist()) if isinstance(fact, np.ndarray) else fact
