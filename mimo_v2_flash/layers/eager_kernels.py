"""Eager-mode kernels of single tokens: compiled for float32 where numba can be used.

Host code, not kernels: `kernels/` says what is computed, and computes everything else.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.axes import checked
from mimo_v2_flash.kernels.moe_router import moe_router
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.kernels.rope_partial import rope_partial

__all__ = ["eager_norm", "eager_rotate", "eager_router"]


@checked
def eager_norm(x_ND: Any, weight_D: Any, *, epsilon: float) -> Any:
    """Return `y_ND` of `rmsnorm`.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Hidden states.
    weight_D : array
        Weight of each channel.
    epsilon : float
        Number that is added to the mean square.
    """
    loops = _loops((x_ND, weight_D))
    if loops is None:
        return rmsnorm(x_ND, weight_D, epsilon=epsilon)
    y_ND = np.empty(x_ND.shape, np.float32)
    loops.norm_rows(x_ND, weight_D, np.float32(epsilon), y_ND)
    return y_ND


@checked
def eager_rotate(x_NHQ: Any, position_N: Any, cos_LR: Any, sin_LR: Any) -> Any:
    """Return `y_NHQ` of `rope_partial`.

    Parameters
    ----------
    x_NHQ : array, float32 or bfloat16
        Queries or keys.
    position_N : array of int32
        Position of each token; -1 is padding.
    cos_LR, sin_LR : array, float32
        Tables of `rope_table`.
    """
    loops = _loops((x_NHQ, cos_LR, sin_LR))
    if loops is None or x_NHQ.shape[2] < 2 * cos_LR.shape[1]:
        return rope_partial(x_NHQ, position_N, cos_LR, sin_LR)
    y_NHQ = np.empty(x_NHQ.shape, np.float32)
    loops.rotate_rows(x_NHQ, np.ascontiguousarray(position_N), cos_LR, sin_LR, y_NHQ)
    return y_NHQ


@checked
def eager_router(
    x_ND: Any, w_router_ED: Any, bias_E: Any, *, experts_per_token: int, scaling: float
) -> tuple[Any, Any]:
    """Return (weight_NA, expert_NA) of `moe_router`.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Normalised hidden states.
    w_router_ED, bias_E : array
        The router's weight, and its selection bias.
    experts_per_token : int
        Experts that a token chooses.
    scaling : float
        Factor on the weights.
    """
    loops, shape = _loops((x_ND, bias_E)), (len(x_ND), experts_per_token)
    if loops is None or not 1 <= experts_per_token <= len(bias_E):
        return moe_router(
            x_ND, w_router_ED, bias_E, experts_per_token=experts_per_token, scaling=scaling
        )
    weight_NA, expert_NA = np.empty(shape, np.float32), np.empty(shape, np.int32)
    logit_NE = ops.matmul(x_ND, w_router_ED.astype(np.float32, copy=False))
    loops.route_rows(logit_NE, bias_E, np.float32(scaling), weight_NA, expert_NA)
    return weight_NA, expert_NA


def _loops(tensors: Iterable[Any]) -> Any:
    """Return the compiled loops, or None if they cannot read these tensors."""
    if any(tensor.dtype != np.float32 or not tensor.flags.c_contiguous for tensor in tensors):
        return None
    return compiled_module("row_loops")
