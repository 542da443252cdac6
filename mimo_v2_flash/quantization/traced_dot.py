"""Dots of nkipy's tensors with a float32 result: they emit HLO instructions while tracing.

Source: nkipy, github.com/aws-neuron/nkipy, `core/backend/hlo.py`.
"""

from typing import Any

import numpy as np
from nkipy.core.backend.hlo import broadcast_to_shape_hlo, get_hlo_context
from nkipy.core.tensor import NKIPyTensorRef

__all__ = ["dot", "emit_dot"]


def dot(x: NKIPyTensorRef, w: NKIPyTensorRef) -> NKIPyTensorRef:
    """Emit one dot, after broadcasting the batch axes, which come first."""
    context = get_hlo_context()
    batch = tuple(np.broadcast_shapes(x.shape[:-2], w.shape[:-2]))
    left, right = (
        broadcast_to_shape_hlo(context, side.backend_tensor, batch + tuple(side.shape[-2:]))
        for side in (x, w)
    )
    return emit_dot(left, right, list(range(len(batch))), (*batch, x.shape[-2], w.shape[-2]))


def emit_dot(left: Any, right: Any, batch: list[int], shape: tuple[int, ...]) -> NKIPyTensorRef:
    """Emit one dot over the last axes with a float32 result: nkipy's `@` rounds to operands' dtype.

    `batch` are the operands' batch axes, which come first in the result.

    Parameters
    ----------
    left, right : tensor
        Operands, traced.
    batch : list of int
        Batch axes of both.
    shape : tuple of int
        Shape of the result.
    """
    last_axis = [len(shape) - 1]
    numbers = {
        "lhs_contracting_dimensions": last_axis,
        "rhs_contracting_dimensions": last_axis,
        "lhs_batch_dimensions": batch,
        "rhs_batch_dimensions": batch,
    }
    result = np.dtype(np.float32)
    return NKIPyTensorRef(get_hlo_context().build_op("dot", [left, right], shape, result, numbers))
