"""Execution modes: eager (shapes follow the data) and static (fixed shapes, for programs).

All functions and sizes that differ between the modes are in this module; a backend names its mode
(`Backend.execution_mode`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.convert.device_layout import to_device_layout
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.kv_cache import MAX_DRAFT_TOKENS
from mimo_v2_flash.parallel import ALONE, Group, HostGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup

from .eager_attention import attend, attend_per_kv_head
from .eager_dispatchers import eager_dispatchers
from .grouped_experts import grouped_experts
from .static_dispatchers import static_dispatchers

__all__ = ["EXECUTION_MODES", "ExecutionMode"]

MIN_KV_LENGTH = 256  # slots; a program for fewer would save nothing


class ExecutionMode(NamedTuple):
    """The functions that make up one execution mode.

    Attributes
    ----------
    attend
        The attention function, as `eager_attention.attend`.
    expert_fn
        Computes a rank's experts on their tokens, as `grouped_experts`.
    build_group
        (world, function from a rank to the ranks of its group) -> this rank's group.
    build_overflow_group
        world -> the group over which the overflow counts of MoE layers are summed.
    dispatchers
        (key of `eager_dispatchers.DISPATCHERS` or None, `MoEStepShape`) -> dispatchers of growing
        capacity; each computes the tokens again if the one before overflowed.
    pad_batch_size
        (rows, data_parallel_size) -> the batch size with padding rows.
    sizing_positions
        (positions of a step, this rank's rows) -> the positions that the step's sizes follow.
    step_length
        (tokens of a step's longest row, max_step) -> the tokens per row with padding.
    kv_length
        (slots that hold a token, slots of the layer) -> the slots that are attended to.
    process_weights
        Converts loaded weights to the layout that the layers take.
    """

    attend: Callable[..., Any]
    expert_fn: Callable[..., Any]
    build_group: Callable[[HostGroup, Callable[[int], range]], Group]
    build_overflow_group: Callable[[HostGroup], Group]
    dispatchers: Callable[..., tuple[Dispatcher, ...]]
    pad_batch_size: Callable[[int, int], int]
    sizing_positions: Callable[[np.ndarray, slice], np.ndarray]
    step_length: Callable[[int, int], int]
    kv_length: Callable[[int, int], int]
    process_weights: Callable[[ModelWeights], ModelWeights]


def eager_group(world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
    """Return this rank's group; `ALONE` if the rank is its only member."""
    ranks = ranks_of(world.rank)
    return world.split(ranks) if len(ranks) > 1 else ALONE


def static_group(world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
    """Return the groups of all ranks as one `DeviceGroup`: every rank runs the same program."""
    groups = sorted({tuple(ranks_of(rank)) for rank in range(world.size)})
    return DeviceGroup(tuple(groups)) if len(groups[0]) > 1 else ALONE


def step_length(tokens: int, max_step: int) -> int:
    """Return the static length of a step: one token, one with its drafts, or whole chunks."""
    lengths = [length for length in (1, 1 + MAX_DRAFT_TOKENS) if tokens <= length <= max_step]
    return lengths[0] if lengths else -(-tokens // max_step) * max_step


def kv_length_bucket(kv_length: int, slots: int) -> int:
    """Return `kv_length` rounded up to a power of two from 256 on, at most `slots`.

    Every length is a program, so there are few of them.
    """
    return min(slots, max(MIN_KV_LENGTH, 1 << (kv_length - 1).bit_length()))


EXECUTION_MODES = {
    "eager": ExecutionMode(
        attend=attend_per_kv_head,
        expert_fn=grouped_experts,
        build_group=eager_group,
        build_overflow_group=lambda _: ALONE,
        dispatchers=eager_dispatchers,
        pad_batch_size=lambda rows, _: rows,
        sizing_positions=lambda position_BT, rows: position_BT[rows],
        step_length=lambda tokens, _: tokens,
        kv_length=min,
        process_weights=lambda weights: weights,
    ),
    "static": ExecutionMode(
        attend=attend,
        expert_fn=capacity_experts,
        build_group=static_group,
        build_overflow_group=lambda world: static_group(world, lambda _: range(world.size)),
        dispatchers=static_dispatchers,
        pad_batch_size=lambda rows, data_parallel_size: (
            -(-rows // data_parallel_size) * data_parallel_size
        ),
        sizing_positions=lambda position_BT, _: position_BT,
        step_length=step_length,
        kv_length=kv_length_bucket,
        process_weights=to_device_layout,
    ),
}
