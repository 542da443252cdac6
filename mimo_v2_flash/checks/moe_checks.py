"""Checks of the mixture of experts: router, experts, token dispatch, and ranks."""

from functools import partial
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.kernels.moe_block import (
    AllGatherDispatcher,
    AllToAllDispatcher,
    Dispatcher,
    moe_block,
)
from mimo_v2_flash.kernels.moe_dispatch import combine, dispatch
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.reference import moe_block as oracle

from .check import Check, Pairs, Random, beside_oracle, normal

__all__ = ["MOE_CHECKS"]

D, F, E, A = 24, 12, 8, 3  # model width, expert width, experts, experts per token
N = 3  # tokens per rank


def _experts(random: Random, experts: int = E) -> ExpertWeights:
    shapes = (experts, F, D), (experts, F, D), (experts, D, F)
    return ExpertWeights(*(normal(random, *shape) for shape in shapes))


def _moe_router(random: Random) -> Pairs:
    tensors = normal(random, 5, D), normal(random, E, D), normal(random, E)
    return beside_oracle("moe_router", "moe_router", *tensors, experts_per_token=A, scaling=1.0)


def _moe_expert(random: Random) -> Pairs:
    (expert,) = _experts(random, 1)
    return beside_oracle("moe_expert", "moe_expert", normal(random, 4, D), *expert)


def _dense_ffn(random: Random) -> Pairs:
    (expert,) = _experts(random, 1)
    return beside_oracle("dense_ffn", "dense_ffn", normal(random, 5, D), *expert, token_block=2)


def _moe_dispatch(random: Random) -> Pairs:
    """Check that experts which return their input give every token back, times its weights."""
    x_ND, weight_NA = normal(random, 6, D), np.full((6, A), np.float32(1 / A))
    expert_NA = np.argsort(random.random((6, E)), axis=1)[:, :A].astype(np.int32)
    buffers = dispatch(x_ND, weight_NA, expert_NA, ranks=4, num_experts=E, send_capacity=6)
    rank_P11 = np.arange(4)[:, None, None]
    weight_PM1 = np.sum(
        buffers.weight_PMA * (buffers.expert_PMA // 2 == rank_P11), -1, keepdims=True
    )
    output_PMD = (buffers.x_PMD * weight_PM1).astype(np.float32)
    return [(combine(output_PMD, buffers.buffer_row_NA), x_ND), (buffers.overflow_1, [0])]


def _moe_block(random: Random, dispatcher: Dispatcher) -> Pairs:
    """Check four expert-parallel ranks, each with its own tokens, beside the oracle."""
    ranks, experts_per_rank = 4, E // 4
    x_PND, position_N = normal(random, ranks, N, D), np.array([0, 1, -1], np.int32)
    w_router_ED, bias_E = normal(random, E, D), normal(random, E)
    experts = _experts(random)
    group = ThreadGroup(ranks)

    def run_rank(rank: int) -> Any:
        local_experts = experts[rank * experts_per_rank : (rank + 1) * experts_per_rank]
        y_ND, _ = moe_block(
            x_PND[rank],
            position_N,
            w_router_ED,
            bias_E,
            np.array([rank], np.int32),
            partial(capacity_experts, experts=local_experts),
            group=group,
            dispatcher=dispatcher,
            experts_per_token=A,
            scaling=1.0,
        )
        return y_ND

    layer = position_N, w_router_ED, bias_E, *experts.columns
    expected = (oracle.moe_block(x_ND, *layer, experts_per_token=A, scaling=1.0) for x_ND in x_PND)
    return list(zip(group.run(run_rank), expected, strict=True))


MOE_CHECKS = (
    Check("moe_router", "bias chooses and never weighs", 1e-6, _moe_router),
    Check("moe_expert", "gate, up, SiLU, down", 1e-6, _moe_expert),
    Check("moe_dispatch", "every token comes back", 1e-6, _moe_dispatch),
    Check(
        "moe_block",
        "4 ranks, all_to_all",
        1e-6,
        lambda r: _moe_block(r, AllToAllDispatcher(send_capacity=N, capacity=4 * N)),
    ),
    Check("moe_block", "4 ranks, all_gather", 1e-6, lambda r: _moe_block(r, AllGatherDispatcher())),
    Check("dense_ffn", "in blocks of tokens", 1e-6, _dense_ffn),
)
