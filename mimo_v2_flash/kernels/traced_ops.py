"""Implementations of `ops` for nkipy's tensors: they emit HLO instructions while tracing.

Source: nkipy, github.com/aws-neuron/nkipy, `core/backend/hlo.py` and `core/tensor_apis.py`.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from nkipy.core import tensor_apis
from nkipy.core.backend.hlo import broadcast_to_shape_hlo, get_hlo_context
from nkipy.core.tensor import NKIPyTensorRef

from mimo_v2_flash.quantization.fp8 import BLOCK, BlockScaled

from . import ops

__all__: list[str] = []

MAX_PARTIAL_ELEMENTS = 1 << 21  # elements of an unscaled result: 8 MiB, a third of a core's SBUF


@ops.matmul.register
def _(x: NKIPyTensorRef, w: Any) -> NKIPyTensorRef:
    return _scaled_dot(x, w) if isinstance(w, BlockScaled) else _dot(x, w)


def _dot(x: NKIPyTensorRef, w: NKIPyTensorRef) -> NKIPyTensorRef:
    """Emit one dot, after broadcasting the batch axes, which come first."""
    context = get_hlo_context()
    batch = tuple(np.broadcast_shapes(x.shape[:-2], w.shape[:-2]))
    left, right = (
        broadcast_to_shape_hlo(context, side.backend_tensor, batch + tuple(side.shape[-2:]))
        for side in (x, w)
    )
    return _emit_dot(left, right, list(range(len(batch))), (*batch, x.shape[-2], w.shape[-2]))


def _scaled_dot(x: NKIPyTensorRef, w: BlockScaled) -> NKIPyTensorRef:
    """Emit dots over columns of blocks, and scale their float32 results, never the weight.

    As many columns form one batched dot as keep its result within `MAX_PARTIAL_ELEMENTS`, but at
    least one.
    """
    (outputs, inputs), (rows, _) = w.shape, x.shape
    columns = -(-inputs // BLOCK)
    columns_per_dot = max(1, MAX_PARTIAL_ELEMENTS // (rows * outputs))
    starts = [*range(0, inputs // BLOCK, columns_per_dot), *range(inputs // BLOCK, columns)]
    y = None
    for start, end in pairwise([*starts, columns]):
        part = slice(start * BLOCK, min(end * BLOCK, inputs))
        width = (part.stop - part.start) // (end - start)
        left: Any = np.reshape(x[:, part], (rows, end - start, width))
        code: Any = np.reshape(w.code[:, part], (outputs, end - start, width)).astype(x.dtype)
        shape = (end - start, rows, outputs)
        product = _emit_dot(left.backend_tensor, code.backend_tensor, [1], shape)
        scale = np.repeat(w.scale[:, start:end], w.block_height, axis=0)[:outputs]
        scaled = np.sum(product * np.expand_dims(np.transpose(scale), 1), axis=0)
        y = scaled if y is None else y + scaled
    return y


def _emit_dot(left: Any, right: Any, batch: list[int], shape: tuple[int, ...]) -> NKIPyTensorRef:
    """Emit one dot over the last axes with a float32 result: nkipy's `@` rounds to operands' dtype.

    `batch` are the operands' batch axes, which come first in the result.
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
