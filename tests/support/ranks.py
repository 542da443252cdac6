"""An expert-parallel MoE layer on all ranks of a group, each with a shard of the tokens."""

from collections.abc import Callable

import numpy as np

from mimo_v2_flash.kernels.moe_block import moe_block
from mimo_v2_flash.layers.feed_forward import RankIds
from mimo_v2_flash.parallel import Group, SoloGroup, ThreadGroup
from tests.support.routed import Layer

SOLO = SoloGroup()
FIRST = RankIds(np.zeros(1, np.int32), np.zeros(1, np.int32))
GROUPS = {"solo": SOLO} | {f"{size} threads": ThreadGroup(size) for size in (1, 2, 4, 8)}


def on_ranks(
    layer: Layer, group: Group, expert_fn: Callable, *, on=lambda kernel: kernel, **statics
):
    """Return (y_ND, overflow_P) of `layer`, its tokens and experts sharded evenly over the ranks.

    `expert_fn` computes a rank's experts from (x, weight, expert, experts); `on` wraps the
    kernel for a kind of arrays.
    """

    def program(*tensors):
        *block, experts = tensors

        def run_local_experts(x_ND, weight_NA, expert_NA, **options):
            return expert_fn(x_ND, weight_NA, expert_NA, experts, **options)

        return moe_block(*block, run_local_experts, group=group, **statics)

    def shard(rank: int, tensor):
        length = len(tensor) // group.size
        return tensor[rank * length : (rank + 1) * length]

    def run_rank(rank: int):
        x_ND, position_N, w_router_ED, bias_E, *_ = layer
        tokens = shard(rank, x_ND), shard(rank, position_N)
        rank_1 = np.array([rank], np.int32)
        experts = shard(rank, layer.experts)
        return on(program)(*tokens, w_router_ED, bias_E, rank_1, experts)

    outputs = [run_rank(0)] if group is SOLO else group.run(run_rank)
    y_of_rank, overflow_of_rank = zip(*outputs, strict=True)
    return np.concatenate(y_of_rank), np.concatenate(overflow_of_rank)
