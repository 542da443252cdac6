"""Eager-mode MoE dispatch: ragged all-to-all, each token once to every rank that it needs.

Host code, not a kernel: how many tokens a rank receives depends on the data. A token, its routing
weights and its expert ids travel as one row of bytes. Static mode has capacity buckets instead:
`static_dispatchers`.

Source: expert parallelism of GShard, arXiv:2006.16668, section 3.2; one message per token and rank
as in DeepEP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, Dispatcher, ExpertFn
from mimo_v2_flash.parallel import HostGroup

__all__ = [
    "DISPATCHERS",
    "MoEStepShape",
    "PaddedAllGatherDispatcher",
    "RaggedAllToAllDispatcher",
    "eager_dispatchers",
]

# Tokens of a step on all ranks up to which every rank sees every token.
EAGER_ALL_GATHER_TOKENS = 32


@dataclass(frozen=True)
class PaddedAllGatherDispatcher:
    """Eager-mode dispatcher for few tokens: every rank takes all of them, padded to one length.

    Parameters
    ----------
    local_tokens
        The most tokens of any rank.
    """

    local_tokens: int

    def __call__(
        self,
        x_ND: Any,
        weight_NA: Any,
        expert_NA: Any,
        expert_fn: ExpertFn,
        *,
        group: HostGroup,
        num_experts: int,
    ) -> tuple[Any, Any]:
        """Return (y_ND, overflow_1), float32, as every `kernels.moe_block.Dispatcher` does."""
        N = len(x_ND)
        if missing := self.local_tokens - N:
            rows = ((0, missing), (0, 0))
            x_ND, weight_NA = np.pad(x_ND, rows), np.pad(weight_NA, rows)
            expert_NA = np.pad(expert_NA, rows, constant_values=num_experts)
        y_ND, overflow_1 = AllGatherDispatcher()(
            x_ND, weight_NA, expert_NA, expert_fn, group=group, num_experts=num_experts
        )
        return y_ND[:N], overflow_1


@dataclass(frozen=True)
class RaggedAllToAllDispatcher:
    """Eager-mode dispatcher for prompts: any number of tokens per rank, without overflow."""

    def __call__(
        self,
        x_ND: Any,
        weight_NA: Any,
        expert_NA: Any,
        expert_fn: ExpertFn,
        *,
        group: HostGroup,
        num_experts: int,
    ) -> tuple[Any, Any]:
        """Return (y_ND, overflow_1), float32, as every `kernels.moe_block.Dispatcher` does."""
        P = group.size
        rank_NA = expert_NA // (num_experts // P)  # P where padding has no expert
        chosen_PN = np.any(rank_NA == np.arange(P)[:, None, None], axis=2)
        count_P = np.sum(chosen_PN, axis=1)
        token_J = np.nonzero(chosen_PN)[1]  # rank after rank
        message_JU = _pack_rows([x_ND[token_J], weight_NA[token_J], expert_NA[token_J]])
        message_MU, count_M = group.ragged_all_to_all(message_JU, count_P)
        x_MD, weight_MA, expert_MA = _unpack_rows(message_MU, [x_ND, weight_NA, expert_NA])
        output_MD = expert_fn(x_MD, weight_MA, expert_MA).astype(x_ND.dtype)
        output_JD, _ = group.ragged_all_to_all(output_MD, count_M)
        y_ND = np.zeros(x_ND.shape, np.float32)
        ends = np.cumsum(count_P)[:-1]
        for tokens, outputs in zip(np.split(token_J, ends), np.split(output_JD, ends), strict=True):
            y_ND[tokens] += outputs  # a token is sent to a rank once: rows are unique
        return y_ND, np.zeros(1, np.float32)


DISPATCHERS: dict[str, type] = {
    "all_gather": PaddedAllGatherDispatcher,
    "all_to_all": RaggedAllToAllDispatcher,
}


class MoEStepShape(NamedTuple):
    """Sizes of a step in an MoE layer, by which a dispatcher is selected.

    Attributes
    ----------
    tokens
        Number of tokens on all ranks together.
    local_tokens
        The most tokens that any rank dispatches; in static mode all dispatch as many, padding
        included.
    ranks
        Number of ranks that the experts are split over.
    num_experts, experts_per_token
        Number of experts of the layer, 0 if it is dense, and of experts that a token chooses.
    """

    tokens: int
    local_tokens: int
    ranks: int
    num_experts: int
    experts_per_token: int


def eager_dispatchers(name: str | None, shape: MoEStepShape) -> tuple[Dispatcher, ...]:
    """Return the dispatcher called `name`, or the one for the step's size if `name` is None."""
    few = name is None and shape.tokens <= EAGER_ALL_GATHER_TOKENS
    if few or name == "all_gather":
        return (PaddedAllGatherDispatcher(shape.local_tokens),)
    return (RaggedAllToAllDispatcher(),)


def _pack_rows(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows of bytes: row i of every array, one after the other."""
    return np.concatenate([np.ascontiguousarray(array).view(np.uint8) for array in arrays], axis=1)


def _unpack_rows(message_MU: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the arrays that `_pack_rows` packed, with the dtypes and widths of `like`."""
    widths = np.cumsum([array.shape[1] * array.itemsize for array in like])
    columns = np.split(message_MU, widths[:-1], axis=1)
    return [
        np.ascontiguousarray(column).view(array.dtype)
        for column, array in zip(columns, like, strict=True)
    ]
