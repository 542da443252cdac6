"""Weights quantized a few rows at a time, on all threads: no matrix is in float32 as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mimo_v2_flash.cpu.thread_pool import parallel_for

from .quantized_tensor import QuantizedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["float32_rows", "quantize_rows"]

TASK_ELEMENTS = 1 << 18  # of a weight, in float32 at a time on each thread: 1 MiB
Stored = TypeVar("Stored", bound=QuantizedTensor)


def float32_rows(weight: np.ndarray | QuantizedTensor, rows: slice) -> np.ndarray:
    """Return rows of O of a weight [..., O, I], an array or stored in any format, in float32."""
    if isinstance(weight, QuantizedTensor):
        return weight.float32_rows(rows)
    return weight[..., rows, :].astype(np.float32, copy=False)


def quantize_rows(
    form: type[Stored],
    encode: Callable[[np.ndarray], Stored],
    weight: np.ndarray | QuantizedTensor,
    where: str,
    height: int = 1,
) -> Stored:
    """Return `encode` of the rows of a weight [O, I], some multiple of `height` at a time.

    Parameters
    ----------
    form : type of QuantizedTensor
        The format.
    encode : callable
        Returns the stored form of rows, float32.
    weight : array or QuantizedTensor
        The weight.
    where : str
        Where the weight is, for messages.
    height : int
        Rows that belong together.

    Raises
    ------
    ValueError
        If the columns are no multiple of the format's `block`, or a value is not finite, or
        `encode` refuses one; the message begins with `where`.
    """
    outputs, inputs = weight.shape
    if inputs % form.block:
        raise ValueError(
            f"{where} has {inputs} columns, {form.format} stores multiples of {form.block}"
        )
    step = max(1, TASK_ELEMENTS // (max(inputs, 1) * height)) * height
    starts = range(0, max(outputs, 1), step)
    parts: list[Stored | None] = [None] * len(starts)

    def fill(task: int) -> None:
        rows = float32_rows(weight, slice(starts[task], starts[task] + step))
        if not np.isfinite(rows).all():
            raise ValueError(f"{where} holds NaN or infinity")
        try:
            parts[task] = encode(rows)
        except OverflowError as error:
            raise ValueError(f"{where} {error}") from error

    parallel_for(fill, len(starts))
    return form.concatenate([part for part in parts if part is not None])
