"""Shares of the head's outputs: each rank sends to rank 0 what it computed of them, and no more."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .head import HeadOutput
from .parallel_context import ParallelContext

__all__ = ["gather_outputs"]


def gather_outputs(
    output: HeadOutput,
    outputs: tuple[np.ndarray, ...],
    is_bad_b: np.ndarray,
    is_wanted_Bn: np.ndarray,
    rank_rows: Sequence[slice],
    context: ParallelContext,
) -> None:
    """Write the parts of all ranks into rank 0's `outputs`: a collective call.

    A rank sends one message: its part of its rows' wanted tokens, then which of its rows are bad.
    Elsewhere `outputs` keep what the rank itself computed.

    Parameters
    ----------
    output, outputs
        The output of the head, and this rank's arrays of it, of all rows.
    is_bad_b
        Which of this rank's rows have NaN or infinity: their last output becomes NaN.
    is_wanted_Bn
        The tokens whose outputs are wanted.
    rank_rows
        The rows of each data-parallel rank.
    context
        The groups of this rank.
    """
    group, received = context.world_group, np.zeros(0, np.uint8)
    is_bad_PB = np.zeros((group.size, len(is_wanted_Bn)), bool)
    is_bad_PB[group.rank, rank_rows[context.data_parallel_rank]] = is_bad_b

    def share(rank: int) -> list[tuple[np.ndarray, Any]]:
        """Return the arrays that a rank has a part of, each with the indices of that part."""
        rows = rank_rows[context.data_parallel_rank_of(rank)]
        parts = output.parts(outputs, rank)
        return [*((part[rows], is_wanted_Bn[rows]) for part in parts), (is_bad_PB[rank], rows)]

    sent = [_bytes(array[index]) for array, index in share(group.rank)] if group.rank else []
    message = np.concatenate([*sent, received])
    received, _ = group.ragged_all_to_all(message, [len(message), *[0] * (group.size - 1)])
    if group.rank:
        return
    end = 0
    for rank in range(1, group.size):
        for array, index in share(rank):
            wanted = array[index]
            start, end = end, end + wanted.nbytes
            array[index] = received[start:end].view(wanted.dtype).reshape(wanted.shape)
    outputs[-1][is_bad_PB.any(axis=0)] = np.nan


def _bytes(array: np.ndarray) -> np.ndarray:
    """Return the bytes of an array, flat."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
