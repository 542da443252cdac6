"""Tokens to their experts and back on a host: exactly those that are needed, each once a rank.

Host code and no kernel: how many tokens a rank is sent depends on the data. A token, its weights
and its choices travel as one row of bytes. Programs have buckets instead: `token_buckets`.

Source: expert parallelism of GShard, arXiv:2006.16668, section 3.2; one message per token and rank
as in DeepEP.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, Dispatcher, ExpertFn
from mimo_v2_flash.parallel import HostGroup

__all__ = ["DISPATCHERS", "MoEStepShape", "RaggedAllToAllDispatcher", "eager_dispatchers"]

FEW_TOKENS = 32  # of a step in all, up to which every rank may as well see every token


@dataclass(frozen=True)
class RaggedAllToAllDispatcher:
    """The dispatcher for prompts on a host: any number of tokens on any rank, nothing overflows."""

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
        """Return (y_ND, overflow_1), float32: a `kernels.moe_block.Dispatcher`."""
        P = group.size
        holder_NA = expert_NA // (num_experts // P)  # P where a token chooses nobody
        chosen_PN = np.any(holder_NA == np.arange(P)[:, None, None], axis=2)
        count_P = np.sum(chosen_PN, axis=1)
        token_J = np.nonzero(chosen_PN)[1]  # rank after rank
        message_JU = _packed(x_ND[token_J], weight_NA[token_J], expert_NA[token_J])
        message_MU, count_M = group.ragged_all_to_all(message_JU, count_P)
        output_MD = expert_fn(*_unpacked(message_MU, x_ND, weight_NA, expert_NA)).astype(x_ND.dtype)
        output_JD, _ = group.ragged_all_to_all(output_MD, count_M)
        y_ND = np.zeros(x_ND.shape, np.float32)
        ends = np.cumsum(count_P)[:-1]
        for of_rank, part in zip(np.split(token_J, ends), np.split(output_JD, ends), strict=True):
            y_ND[of_rank] += part  # a token is sent to a rank once: rows are unique
        return y_ND, np.zeros(1, np.float32)


DISPATCHERS: dict[str, Dispatcher] = {
    "all_gather": AllGatherDispatcher(),
    "all_to_all": RaggedAllToAllDispatcher(),
}


class MoEStepShape(NamedTuple):
    """How many tokens of a step go to how many experts.

    Attributes
    ----------
    tokens
        On all ranks together.
    own
        That each rank takes there, padding among them.
    ranks
        That share the experts.
    experts, choices
        Of a layer, none if it is dense; and those that a token chooses.
    """

    tokens: int
    local_tokens: int
    ranks: int
    num_experts: int
    experts_per_token: int


def eager_dispatchers(name: str | None, shape: MoEStepShape) -> tuple[Dispatcher, ...]:
    """Return the exchange of that name, or of a step of that size: `ExecutionMode.dispatchers`."""
    return (DISPATCHERS[name or ("all_gather" if shape.tokens <= FEW_TOKENS else "all_to_all")],)


def _packed(*parts: np.ndarray) -> np.ndarray:
    """Return rows of bytes: each part's row after the other."""
    return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=1)


def _unpacked(message_MU: np.ndarray, *like: np.ndarray) -> list[np.ndarray]:
    """Return what `_packed` made one, with dtypes and widths of the arrays `like`."""
    widths = np.cumsum([part.shape[1] * part.itemsize for part in like])
    rows = np.split(message_MU, widths[:-1], axis=1)
    return [
        np.ascontiguousarray(row).view(part.dtype) for row, part in zip(rows, like, strict=True)
    ]
