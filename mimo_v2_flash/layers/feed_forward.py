"""The two feed-forwards, dense and mixture of experts, with one signature."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mimo_v2_flash.groups import Group
from mimo_v2_flash.kernels.dense_ffn import dense_ffn
from mimo_v2_flash.kernels.moe_block import moe_block
from mimo_v2_flash.weights.records import DenseWeights, MoEWeights

__all__ = ["Dense", "FeedForward", "MixtureOfExperts"]


class FeedForward(Protocol):
    """From tokens x_ND, their positions, this rank's number and weights to answers y_ND."""

    def __call__(self, x_ND: Any, position_N: Any, rank_1: Any, weights: Any) -> Any:
        """Return the answers."""


@dataclass(frozen=True)
class Dense:
    """One network for every token, `token_block` tokens at a time."""

    token_block: int

    def __call__(self, x_ND: Any, position_N: Any, rank_1: Any, weights: DenseWeights) -> Any:
        """Return the network's answer to every token, `y_ND`."""
        return dense_ffn(x_ND, *weights, token_block=self.token_block).astype(x_ND.dtype)


@dataclass(frozen=True)
class MixtureOfExperts:
    """A few of many networks for each token.

    Parameters
    ----------
    experts_per_token, scaling
        How many a token chooses, and what their weights sum to.
    group
        The ranks that the experts are split over.
    exchange, slots
        How tokens reach their experts (`kernels.moe_block.EXCHANGES`), and in how many messages.
    answer
        How a rank's experts see their tokens: `token_groups.grouped_experts` on a host,
        `kernels.moe_expert.masked_experts` where shapes are static.
    """

    experts_per_token: int
    scaling: float
    group: Group
    exchange: str
    slots: int
    answer: Callable[..., Any]

    def __call__(self, x_ND: Any, position_N: Any, rank_1: Any, weights: MoEWeights) -> Any:
        """Return every token's experts' answers, weighed and summed, `y_ND`."""

        def answer(x_ND: Any, weight_NA: Any, expert_NA: Any) -> Any:
            return self.answer(x_ND, weight_NA, expert_NA, *weights.experts)

        y_ND, _ = moe_block(
            x_ND,
            position_N,
            weights.w_router_ED,
            weights.bias_E,
            rank_1,
            answer,
            group=self.group,
            exchange=self.exchange,
            slots=self.slots,
            experts_per_token=self.experts_per_token,
            scaling=self.scaling,
        )
        return y_ND.astype(x_ND.dtype)
