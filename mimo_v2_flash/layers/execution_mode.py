"""The two forms of a layer: on a host shapes follow the data, in a program they are fixed.

Parts, exchanges and sizes that differ are here, and nowhere else: `Backend.form` names the form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.kv_cache import MAX_DRAFT_TOKENS
from mimo_v2_flash.parallel import ALONE, Group, HostGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup
from mimo_v2_flash.weights.device_layout import to_device_layout
from mimo_v2_flash.weights.params import ModelWeights

from .eager_attention import attend, attend_per_kv_head
from .eager_dispatchers import eager_dispatchers
from .grouped_experts import grouped_experts
from .static_dispatchers import static_dispatchers

__all__ = ["EXECUTION_MODES", "ExecutionMode"]

MIN_KV_LENGTH = 256  # slots; below, another program saves nothing


class ExecutionMode(NamedTuple):
    """What a model is made of, and its sizes.

    Attributes
    ----------
    look, answer
        How queries see keys, and a rank's experts their tokens.
    group
        From the world, and from a rank to those that it shares something with, to their group.
    world
        From the world to the ranks that must know of each other's overflow.
    exchanges
        From a key of `token_exchange.DISPATCHERS`, or None, and a layer's `MoEStepShape` to the ways to the
        experts; each is for tokens that the one before had no room for.
    batch
        From a number of rows, and the shares of the batch, to the rows with padding among them.
    sizing
        From the positions of a step, and the rows that are here, to those that its sizes follow.
    length
        From the longest row of a step, and the longest step, to the tokens of a row that pass
        through the layers; what is more than the row has is padding.
    filled
        From the slots that hold something, and a layer's slots, to those that are looked at.
    weights
        From weights as they are loaded to weights as the layers take them.
    """

    attend: Callable[..., Any]
    expert_fn: Callable[..., Any]
    group: Callable[[HostGroup, Callable[[int], range]], Group]
    world: Callable[[HostGroup], Group]
    dispatchers: Callable[..., tuple[Dispatcher, ...]]
    batch: Callable[[int, int], int]
    sizing: Callable[[np.ndarray, slice], np.ndarray]
    length: Callable[[int, int], int]
    kv_length: Callable[[int, int], int]
    weights: Callable[[ModelWeights], ModelWeights]


def eager_group(world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
    """Return the group of this rank, one alone if it shares nothing."""
    ranks = ranks_of(world.rank)
    return world.split(ranks) if len(ranks) > 1 else ALONE


def static_group(world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
    """Return the groups of all ranks as one: a program is the same on each of them."""
    parts = sorted({tuple(ranks_of(rank)) for rank in range(world.size)})
    return DeviceGroup(tuple(parts)) if len(parts[0]) > 1 else ALONE


def step_length(tokens: int, max_step: int) -> int:
    """Return the length of a program's step: one token, one and its drafts, or whole chunks."""
    lengths = [length for length in (1, 1 + MAX_DRAFT_TOKENS) if tokens <= length <= max_step]
    return lengths[0] if lengths else -(-tokens // max_step) * max_step


def kv_length_bucket(kv_length: int, slots: int) -> int:
    """Return the power of two that holds `kv_length`, or all slots: a program for each of a few."""
    return min(slots, max(MIN_KV_LENGTH, 1 << (kv_length - 1).bit_length()))


EXECUTION_MODES = {
    "eager": ExecutionMode(
        attend_per_kv_head,
        grouped_experts,
        eager_group,
        lambda _: ALONE,
        eager_dispatchers,
        lambda rows, _: rows,
        lambda position_BT, rows: position_BT[rows],
        lambda tokens, _: tokens,
        min,
        lambda weights: weights,
    ),
    "static": ExecutionMode(
        attend,
        capacity_experts,
        static_group,
        lambda world: static_group(world, lambda _: range(world.size)),
        static_dispatchers,
        lambda rows, shares: -(-rows // shares) * shares,
        lambda position_BT, _: position_BT,
        step_length,
        kv_length_bucket,
        to_device_layout,
    ),
}
