"""Compute types: what the activations are rounded to before a product with a stored weight.

Weights stay as they are stored, and sums are float32. The type belongs to the weight, not to the
path that multiplies: activations are rounded whatever their number of rows.

Source: torchao's `LinearActivationQuantizedTensor`; docs/decisions/0043.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from .quantized_tensor import QuantizedTensor

__all__ = ["COMPUTE_TYPES", "ActivationQuantizedWeight", "round_activations", "stored_weight"]

COMPUTE_TYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""The dtype of activations in products, by the name of the compute type; the first is exact."""


@dataclass(frozen=True, eq=False)
class ActivationQuantizedWeight:
    """A weight [..., O, I], or a stack of them, whose products round their activations first.

    Attributes
    ----------
    weight
        The weight as stored: an array, or a `QuantizedTensor`.
    compute
        The compute type of its products, a key of `COMPUTE_TYPES`.
    """

    weight: np.ndarray | QuantizedTensor
    compute: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape [..., O, I]."""
        return self.weight.shape

    def __getitem__(self, index: int | slice) -> ActivationQuantizedWeight:
        """Return one weight of a stack, or a part of the stack, as views."""
        return ActivationQuantizedWeight(self.weight[index], self.compute)


def stored_weight(w: Any) -> tuple[np.ndarray | QuantizedTensor, str]:
    """Return a weight as stored, and the compute type of its products."""
    return (w.weight, w.compute) if isinstance(w, ActivationQuantizedWeight) else (w, "float32")


def round_activations(x: np.ndarray, compute: str) -> np.ndarray:
    """Return float32 `x` rounded to the nearest numbers of a compute type, ties to even."""
    return x.astype(COMPUTE_TYPES[compute], copy=False).astype(np.float32, copy=False)
