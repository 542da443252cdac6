"""SwiGLU experts: one expert, and all experts of a rank in static shapes.

Source: SwiGLU, arXiv:2002.05202, equation 6; transformers `models/mimo_v2_flash`
(`MiMoV2FlashExperts`). MiMo: D = 4096, F = 2048, no clamp, no shared expert.
"""

import numpy as np

from . import ops
from .axes import checked
from .moe_dispatch import combine, dispatch

__all__ = ["capacity_experts", "masked_experts", "moe_expert"]


@checked
def moe_expert(x_ND, w_gate_FD, w_up_FD, w_down_DF):
    """Return `y_ND`, the output of one expert, float32.

    y = (silu(x w_gate) * x w_up) w_down,  silu(z) = z sigmoid(z)

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Tokens.
    w_gate_FD, w_up_FD, w_down_DF : array or QuantizedTensor
        Weights of the expert.
    """
    hidden_NF = ops.swiglu(ops.matmul(x_ND, w_gate_FD), ops.matmul(x_ND, w_up_FD))
    return ops.matmul(hidden_NF.astype(x_ND.dtype), w_down_DF)


@checked
def masked_experts(x_ND, weight_NA, expert_NA, experts):
    """Return `y_ND`: every token through every expert of this rank, weighted, float32.

        y = sum over e of (sum over choices of e of weight) x expert_e(x)

    For programs of static shape and few tokens, where reading the experts' weights is the cost.
    `experts[e]` are the three matrices of an expert; ids that are none of them are skipped.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Tokens.
    weight_NA : array, float32
        Weight of each expert that a token chose.
    expert_NA : array of int32
        Id of each expert that a token chose, from 0 at this rank's first one.
    experts : sequence
        This rank's experts, each a record of `w_gate_FD`, `w_up_FD` and `w_down_DF`.
    """
    y_ND = None
    for expert in range(len(experts)):
        chosen_NA = (expert_NA == expert).astype(np.float32)
        weight_N1 = np.sum(weight_NA * chosen_NA, axis=-1, keepdims=True)
        w_gate_FD, w_up_FD, w_down_DF = experts[expert]
        output_ND = weight_N1 * moe_expert(x_ND, w_gate_FD, w_up_FD, w_down_DF)
        # 0 x NaN is NaN: of a bad expert, tokens that did not choose it must see nothing.
        is_chosen_N1 = np.max(chosen_NA, axis=-1, keepdims=True) > 0
        output_ND = np.where(is_chosen_N1, output_ND, np.float32(0))
        y_ND = output_ND if y_ND is None else y_ND + output_ND
    return y_ND


@checked
def capacity_experts(x_ND, weight_NA, expert_NA, experts, *, capacity: int | None = None):
    """Return `y_ND` as `masked_experts` does, with at most `capacity` tokens for each expert.

    For programs of static shape and many tokens: an expert's weights are read once, as a plain
    slice, and it computes `capacity` tokens. It skips the tokens beyond them, in order:
    `moe_block.AllToAllDispatcher` counts them. Without `capacity` every expert computes every
    token.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Tokens.
    weight_NA : array, float32
        Weight of each expert that a token chose.
    expert_NA : array of int32
        Id of each expert that a token chose, from 0 at this rank's first one.
    experts : sequence
        This rank's experts, as for `masked_experts`.
    capacity : int, optional
        Tokens that each expert computes.
    """
    if capacity is None or capacity >= x_ND.shape[0]:
        return masked_experts(x_ND, weight_NA, expert_NA, experts)
    E = len(experts)
    buffers = dispatch(x_ND, weight_NA, expert_NA, ranks=E, num_experts=E, send_capacity=capacity)
    outputs = []
    for expert in range(E):
        chosen_MA = (buffers.expert_PMA[expert] == expert).astype(np.float32)
        weight_M1 = np.sum(buffers.weight_PMA[expert] * chosen_MA, axis=-1, keepdims=True)
        w_gate_FD, w_up_FD, w_down_DF = experts[expert]
        output_MD = moe_expert(buffers.x_PMD[expert], w_gate_FD, w_up_FD, w_down_DF)
        outputs.append(weight_M1 * output_MD)
    return combine(np.stack(outputs), buffers.buffer_row_NA)
