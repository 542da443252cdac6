"""The product of nkipy's tensors with FP8 blocks: dots of codes, whose results are scaled."""

from itertools import pairwise
from typing import Any

import numpy as np
from nkipy.core.tensor import NKIPyTensorRef

from .fp8 import BLOCK, BlockScaled
from .traced_dot import emit_dot

__all__ = ["scaled_dot"]

MAX_PARTIAL_ELEMENTS = 1 << 21  # elements of an unscaled result: 8 MiB, a third of a core's SBUF


def scaled_dot(x: NKIPyTensorRef, w: BlockScaled) -> NKIPyTensorRef:
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
        product = emit_dot(left.backend_tensor, code.backend_tensor, [1], shape)
        scale = np.repeat(w.scale[:, start:end], w.block_height, axis=0)[:outputs]
        scaled = np.sum(product * np.expand_dims(np.transpose(scale), 1), axis=0)
        y = scaled if y is None else y + scaled
    return y
