"""Reference mixture of experts: all experts in one place, without dispatch.

Source: DeepSeek-V3, arXiv:2412.19437, section 2.1.2, without shared experts.
"""

from .moe_expert import masked_experts
from .moe_router import moe_router

__all__ = ["moe_block"]


def moe_block(
    x_ND,
    position_N,
    w_router_ED,
    bias_E,
    w_gate_EFD,
    w_up_EFD,
    w_down_EDF,
    *,
    experts_per_token: int,
    scaling: float,
):
    """Return `y_ND`: y = sum over the chosen e of weight_e expert_e(x); 0 for padding.

    It takes the weights of all experts, where the kernel takes a rank and an `ExpertFn`.
    """
    weight_NA, expert_NA = moe_router(
        x_ND, w_router_ED, bias_E, experts_per_token=experts_per_token, scaling=scaling
    )
    y_ND = masked_experts(x_ND, weight_NA, expert_NA, w_gate_EFD, w_up_EFD, w_down_EDF)
    for n, position in enumerate(position_N):
        if position < 0:
            y_ND[n] = 0
    return y_ND
