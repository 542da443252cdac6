"""Oracles of activations that are rounded to bfloat16 before products with weights.

A number that lies near a tie, closer than a sum is exact, may be rounded to either side: what that
changes is allowed. transformers' products are `torch.nn.functional.linear`, of a Linear, an expert
or a router; all but routers' round their input in `rounded_logits`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tests.support.chosen_experts import ChosenExperts
from tests.support.stored_weights import widened
from tests.support.tiny import Tiny

SUM = 1e-6  # error of a float32 sum, relative to the sum of magnitudes
linear = torch.nn.functional.linear


def nearest_bfloat16(x: np.ndarray) -> np.ndarray:
    """Return the nearest bfloat16 of finite numbers: of both neighbours, the even one in a tie."""
    below = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    above = (below.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
    low, high, wide = (part.astype(np.float64) for part in (below, above, x))
    high = np.where(np.isinf(high), np.sign(wide) * 2.0**128, high)  # as if exponents went on
    to_low, to_high = np.abs(wide - low), np.abs(high - wide)
    is_even = (below.view(np.uint32) >> np.uint32(16)) % 2 == 0
    return np.where((to_low < to_high) | ((to_low == to_high) & is_even), below, above)


def assert_is_rounded_step(y_ND: np.ndarray, step: ChosenExperts) -> None:
    """Assert that `y_ND` is the float64 sum over experts of rounded tokens and hidden channels."""
    expected_ND, allowed_ND = np.zeros(y_ND.shape), np.zeros(y_ND.shape)
    for expert, record in enumerate(step.experts):
        weight_N1 = np.sum(step.weight_NA * (step.expert_NA == expert), axis=1, keepdims=True)
        output_ND, error_ND = rounded_expert(step.x_ND, *record)
        expected_ND += weight_N1 * output_ND
        allowed_ND += weight_N1 * error_ND
    assert y_ND.dtype == np.float32
    assert np.all(np.abs(y_ND - expected_ND) <= allowed_ND)


def rounded_expert(x_ND: Any, gate: Any, up: Any, down: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (y_ND, error_ND): a SwiGLU network's output, float64, and how far float32 may be."""
    gate_FD, up_FD, down_DF = map(widened, (gate, up, down))
    wide_ND = nearest_bfloat16(x_ND).astype(np.float64)
    gate_NF, up_NF = wide_ND @ gate_FD.T, wide_ND @ up_FD.T
    silu_NF = gate_NF / (1 + np.exp(-np.maximum(gate_NF, -700)))
    gate_error_NF, up_error_NF = (SUM * np.abs(wide_ND) @ np.abs(w).T for w in (gate_FD, up_FD))
    hidden_NF = silu_NF * up_NF
    error_NF = 1.1 * gate_error_NF * np.abs(up_NF) + np.abs(silu_NF) * up_error_NF
    low_NF, near_NF, high_NF = (
        nearest_bfloat16((hidden_NF + error).astype(np.float32)).astype(np.float64)
        for error in (-error_NF, 0, error_NF)
    )
    summed_ND = (high_NF - low_NF + SUM * np.abs(near_NF)) @ np.abs(down_DF).T
    return near_NF @ down_DF.T, summed_ND


@contextmanager
def rounded_inputs(oracle: Any) -> Iterator[None]:
    """Round the inputs of all products of a transformers model but those of its routers."""
    layers = oracle.model.layers
    routers = {layer.mlp.gate.weight.data_ptr() for layer in layers if hasattr(layer.mlp, "gate")}

    def product(x: Any, weight: Any, bias: Any = None) -> Any:
        is_router = weight.data_ptr() in routers
        return linear(x if is_router else x.bfloat16().float(), weight, bias)

    torch.nn.functional.linear = product
    try:
        yield
    finally:
        torch.nn.functional.linear = linear


def rounded_logits(model: Tiny, token_T: Any) -> np.ndarray:
    """Return transformers' next-token logits [T, V] of one sequence in one prefill."""
    with torch.no_grad(), rounded_inputs(model.oracle):
        output = model.oracle(torch.tensor(np.asarray(token_T))[None], use_cache=False)
    return output.logits[0].numpy()
