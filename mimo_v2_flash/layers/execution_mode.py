"""The two forms of a layer: on a host shapes follow the data, in a program they are fixed.

Parts, exchanges and sizes that differ are here, and nowhere else: `Backend.form` names the form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.kv_cache import LONGEST_DRAFT
from mimo_v2_flash.parallel import ALONE, Group, HostGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup
from mimo_v2_flash.weights.device_layout import traceable
from mimo_v2_flash.weights.params import ModelWeights

from .eager_attention import look, look_by_heads
from .eager_dispatchers import eager_dispatchers
from .grouped_experts import grouped_experts
from .static_dispatchers import static_dispatchers

__all__ = ["FORMS", "Form"]

LEAST_FILLED = 256  # slots; below, another program saves nothing


class Form(NamedTuple):
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

    look: Callable[..., Any]
    expert_fn: Callable[..., Any]
    group: Callable[[HostGroup, Callable[[int], range]], Group]
    world: Callable[[HostGroup], Group]
    dispatchers: Callable[..., tuple[Dispatcher, ...]]
    batch: Callable[[int, int], int]
    sizing: Callable[[np.ndarray, slice], np.ndarray]
    length: Callable[[int, int], int]
    filled: Callable[[int, int], int]
    weights: Callable[[ModelWeights], ModelWeights]


def host_group(world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
    """Return the group of this rank, one alone if it shares nothing."""
    ranks = ranks_of(world.rank)
    return world.split(ranks) if len(ranks) > 1 else ALONE


def device_group(world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
    """Return the groups of all ranks as one: a program is the same on each of them."""
    parts = sorted({tuple(ranks_of(rank)) for rank in range(world.size)})
    return DeviceGroup(tuple(parts)) if len(parts[0]) > 1 else ALONE


def step_length(tokens: int, max_step: int) -> int:
    """Return the length of a program's step: one token, one and its drafts, or whole chunks."""
    lengths = [length for length in (1, 1 + LONGEST_DRAFT) if tokens <= length <= max_step]
    return lengths[0] if lengths else -(-tokens // max_step) * max_step


def filled_bucket(filled: int, slots: int) -> int:
    """Return the power of two that holds `filled`, or all slots: a program for each of a few."""
    return min(slots, max(LEAST_FILLED, 1 << (filled - 1).bit_length()))


FORMS = {
    "host": Form(
        look_by_heads,
        grouped_experts,
        host_group,
        lambda _: ALONE,
        eager_dispatchers,
        lambda rows, _: rows,
        lambda position_BT, rows: position_BT[rows],
        lambda tokens, _: tokens,
        min,
        lambda weights: weights,
    ),
    "program": Form(
        look,
        capacity_experts,
        device_group,
        lambda world: device_group(world, lambda _: range(world.size)),
        static_dispatchers,
        lambda rows, shares: -(-rows // shares) * shares,
        lambda position_BT, _: position_BT,
        step_length,
        filled_bucket,
        traceable,
    ),
}
