"""The operations of `ops` for nkipy's tensors: instructions of the program that is traced.

Source: nkipy, github.com/aws-neuron/nkipy, `core/backend/hlo.py` and `core/tensor_apis.py`.
"""

from typing import Any

import numpy as np
from nkipy.core import tensor_apis
from nkipy.core.backend.hlo import broadcast_to_shape_hlo, get_hlo_context
from nkipy.core.tensor import NKIPyTensorRef

from . import ops
from .block_scale import BLOCK, BlockScaled

__all__: list[str] = []


@ops.matmul.register
def _(x: NKIPyTensorRef, w: Any) -> NKIPyTensorRef:
    return _scaled_dot(x, w) if isinstance(w, BlockScaled) else _dot(x, w)


def _dot(x: NKIPyTensorRef, w: NKIPyTensorRef) -> NKIPyTensorRef:
    """Emit one dot with a float32 result: nkipy's own `@` rounds to the operands' dtype."""
    context = get_hlo_context()
    batch = tuple(np.broadcast_shapes(x.shape[:-2], w.shape[:-2]))
    left, right = (
        broadcast_to_shape_hlo(context, side.backend_tensor, batch + tuple(side.shape[-2:]))
        for side in (x, w)
    )
    axis = len(batch)
    numbers = {
        "lhs_contracting_dimensions": [axis + 1],
        "rhs_contracting_dimensions": [axis + 1],
        "lhs_batch_dimensions": list(range(axis)),
        "rhs_batch_dimensions": list(range(axis)),
    }
    shape = (*batch, x.shape[-2], w.shape[-2])
    return NKIPyTensorRef(
        context.build_op("dot", [left, right], shape, np.dtype(np.float32), numbers)
    )


def _scaled_dot(x: NKIPyTensorRef, w: BlockScaled) -> NKIPyTensorRef:
    """Emit one dot per column of blocks and scale its float32 result, never the weight."""
    outputs, inputs = w.shape
    y = None
    for column in range(w.scale.shape[-1]):
        part = slice(column * BLOCK, min((column + 1) * BLOCK, inputs))
        product = _dot(x[..., part], w.code[:, part].astype(x.dtype))
        scale_O = np.repeat(w.scale[:, column], w.block_height, axis=0)[:outputs]
        scaled = product * scale_O
        y = scaled if y is None else y + scaled
    return y


@ops.top_k.register
def _(x: NKIPyTensorRef, k: int) -> tuple[NKIPyTensorRef, NKIPyTensorRef]:
    value, index = tensor_apis.topk(x, k=k, axis=x.ndim - 1)
    return value, index.astype(np.int32)


@ops.constant.register
def _(like: NKIPyTensorRef, array: np.ndarray) -> NKIPyTensorRef:
    return tensor_apis.constant(array)


@ops.full.register
def _(like: NKIPyTensorRef, shape: tuple[int, ...], value: float, dtype: Any) -> NKIPyTensorRef:
    return tensor_apis.full(tuple(shape), value, dtype)


@ops.put_rows.register
def _(buffer: NKIPyTensorRef, row_N: NKIPyTensorRef, x: NKIPyTensorRef) -> None:
    buffer[row_N] = x
