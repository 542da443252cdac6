"""Eager-mode grouped experts: only chosen experts are computed, each once, on exactly its tokens.

Host code, not a kernel: the shapes depend on the data. Static mode uses
`kernels.moe_expert.capacity_experts` instead; both compute with `moe_expert`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights
from mimo_v2_flash.cpu.thread_pool import MIN_SHARED_WORK, parallel_for, run_in_turn
from mimo_v2_flash.kernels.moe_expert import moe_expert

__all__ = ["grouped_experts"]


def grouped_experts(
    x_ND: Any,
    weight_NA: Any,
    expert_NA: Any,
    experts: Sequence[DenseWeights],
    y_ND: np.ndarray | None = None,
) -> Any:
    """Return `y_ND`: each token's weighted sum over the local experts that it chose, float32.

    Parameters
    ----------
    x_ND
        Tokens, float32 or bfloat16.
    weight_NA, expert_NA
        Routing weights, float32, and ids of local experts; other ids (negative or too large)
        contribute nothing.
    experts
        The local experts: a record of three matrices for each, read when it is chosen.
    y_ND
        What the sums are added to, expert after expert; zeros if not given.
    """
    A = expert_NA.shape[1]
    expert_J, weight_J = expert_NA.reshape(-1), weight_NA.reshape(-1)
    order_J = np.argsort(expert_J, kind="stable")
    chosen, starts = np.unique(expert_J[order_J], return_index=True)
    groups = [
        (int(expert), pair_J)
        for expert, pair_J in zip(chosen, np.split(order_J, starts)[1:], strict=True)
        if 0 <= expert < len(experts)
    ]
    outputs: list[Any] = [None] * len(groups)

    def compute_expert(index: int) -> None:
        expert, pair_J = groups[index]
        w = experts[expert]
        output_ND = moe_expert(x_ND[pair_J // A], w.w_gate_FD, w.w_up_FD, w.w_down_DF)
        outputs[index] = weight_J[pair_J, None] * output_ND

    # An expert is about as wide as the model: only then are threads worth their handoff.
    is_shared = expert_J.size * x_ND.shape[1] ** 2 >= MIN_SHARED_WORK
    (parallel_for if is_shared else run_in_turn)(compute_expert, len(groups))
    y_ND = np.zeros(x_ND.shape, np.float32) if y_ND is None else y_ND
    for (_, pair_J), output in zip(groups, outputs, strict=True):
        y_ND[pair_J // A] += output  # a token chooses an expert once: rows are unique
    return y_ND
