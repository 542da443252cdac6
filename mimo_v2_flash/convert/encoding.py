"""The encoding of prepared weights: as stored, bfloat16 or float32, for a CPU or for Trainium2.

Single weights may be quantized to another format. For Trainium2 a storage format narrows its range;
values that this rounds are counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.isq_table import IsqRequest, IsqRow
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, WIDENED
from mimo_v2_flash.quantization import HUB_FORMAT, QuantizedTensor, get_format

__all__ = ["STORED", "TARGETS", "Encoding", "stored_arrays"]

STORED = {HUB_FORMAT: None, "bfloat16": "BF16", "float32": "F32"}
TARGETS = ("cpu", "trainium2")
NOTHING = IsqRequest()
ROWS = 128  # of a weight that are dequantized at a time


@dataclass
class Encoding:
    """The dtype that weights are converted to, and the device that they are for.

    Parameters
    ----------
    dtype
        A key of `STORED`; the hub's format keeps every weight as stored, whatever its format.
    target
        One of `TARGETS`; it changes weights in a storage format only.
    request
        What weights are quantized to.

    Attributes
    ----------
    table
        What becomes of each weight, once the request was planned.
    rounded
        How many values the target's range has rounded so far.
    """

    dtype: str
    target: str
    request: IsqRequest = NOTHING
    table: Sequence[IsqRow] = ()
    rounded: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in STORED or self.target not in TARGETS:
            raise ValueError(
                f"dtype {self.dtype!r} and target {self.target!r}, expected one of "
                f"{', '.join(STORED)} and of {', '.join(TARGETS)}"
            )
        self._lock = Lock()
        if self.request.text and (self.dtype, self.target) != (HUB_FORMAT, "cpu"):
            name = "dtype" if self.dtype != HUB_FORMAT else "target"
            allowed = {"dtype": HUB_FORMAT, "target": "cpu"}[name]
            raise ValueError(f"{name} is {getattr(self, name)!r}, allowed with isq is {allowed}")

    def forms(self) -> Mapping[str, type[QuantizedTensor]]:
        """Return the format of each weight that is quantized, by its name."""
        return {row.name: get_format(row.form) for row in self.table if row.form}

    def stored(self, dtype: str) -> str:
        """Return the safetensors dtype of a matrix that the source stores as `dtype`."""
        return STORED[self.dtype] or WIDENED.get(dtype, dtype)

    @property
    def is_as_stored(self) -> bool:
        """Whether weights stay in their storage format."""
        return STORED[self.dtype] is None

    def encode(
        self, where: str, weight: QuantizedTensor, form: type[QuantizedTensor] | None = None
    ) -> list[np.ndarray]:
        """Return the arrays to write for a weight: its tensors in their order, or its values.

        `form` is the format that it is quantized to.

        Parameters
        ----------
        where : str
            Where the weight is, for messages.
        weight : QuantizedTensor
            The weight as it is stored.
        form : type of QuantizedTensor, optional
            The format that it is quantized to.

        Raises
        ------
        ValueError
            If a stored value is not finite, or cannot be stored for the target; the message begins
            with `where`.
        """
        weight.check_values(where)
        if form is not None:
            return stored_arrays(form.quantize(weight, where))
        if stored := STORED[self.dtype]:
            return [_dequantized(weight, DTYPES[stored])]
        if self.target != "cpu":
            weight, rounded = weight.to_device_range(where)
            with self._lock:
                self.rounded += rounded
        return stored_arrays(weight)


def stored_arrays(weight: QuantizedTensor) -> list[np.ndarray]:
    """Return the tensors of a weight, in the order of its format."""
    return [getattr(weight, tensor.field) for tensor in weight.tensors]


def _dequantized(weight: QuantizedTensor, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a weight's values in `dtype`; only some rows at a time are in float32."""
    values = np.empty(weight.shape, dtype)
    for start in range(0, len(values), ROWS):
        rows = slice(start, start + ROWS)
        values[rows] = weight.dequantize(rows)
    return values
