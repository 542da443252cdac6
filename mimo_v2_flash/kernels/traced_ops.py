"""Implementations of `ops` for nkipy's tensors: they emit HLO instructions while tracing.

Source: nkipy, github.com/aws-neuron/nkipy, `core/backend/hlo.py` and `core/tensor_apis.py`.
"""

from typing import Any

import numpy as np
from nkipy.core import tensor_apis
from nkipy.core.backend.hlo import get_hlo_context
from nkipy.core.tensor import NKIPyTensorRef

from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.traced_dot import dot

from . import ops

__all__: list[str] = []


@ops.matmul.register
def _(x: NKIPyTensorRef, w: Any) -> NKIPyTensorRef:
    return w.traced_product(x) if isinstance(w, QuantizedTensor) else dot(x, w)


@ops.top_k.register
def _(x: NKIPyTensorRef, k: int) -> tuple[NKIPyTensorRef, NKIPyTensorRef]:
    value, index = tensor_apis.topk(x, k=k, axis=x.ndim - 1)
    return value, index.astype(np.int32)


@ops.arange.register
def _(like: NKIPyTensorRef, count: int) -> NKIPyTensorRef:
    dimension = {"iota_dimension": 0}
    return NKIPyTensorRef(
        get_hlo_context().build_op("iota", [], (count,), np.dtype(np.int32), dimension)
    )


@ops.constant.register
def _(like: NKIPyTensorRef, array: np.ndarray) -> NKIPyTensorRef:
    return tensor_apis.constant(array)


@ops.full.register
def _(like: NKIPyTensorRef, shape: tuple[int, ...], value: float, dtype: Any) -> NKIPyTensorRef:
    return tensor_apis.full(tuple(shape), value, dtype)


@ops.put_rows.register
def _(buffer: NKIPyTensorRef, row_N: NKIPyTensorRef, x: NKIPyTensorRef) -> None:
    buffer[row_N] = x
