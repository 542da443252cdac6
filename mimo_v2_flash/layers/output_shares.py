"""Shares of the head's outputs: each rank sends to rank 0 what it computed of them, and no more."""

from collections.abc import Sequence

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
    """
    group, is_bad_B = context.world_group, np.zeros(len(is_wanted_Bn), bool)
    rows_of = [rank_rows[context.data_parallel_rank_of(rank)] for rank in range(group.size)]
    is_bad_B[rows_of[group.rank]] = is_bad_b
    message = np.zeros(0, np.uint8)
    if group.rank:
        rows = rows_of[group.rank]
        parts = output.parts(outputs, group.rank)
        wanted = [part[rows][is_wanted_Bn[rows]] for part in parts]
        message = np.concatenate([_bytes(array) for array in (*wanted, is_bad_b)])
    count_P = [len(message), *[0] * (group.size - 1)]
    received, count_P = group.ragged_all_to_all(message, count_P)
    if group.rank:
        return
    messages = np.split(received, np.cumsum(count_P)[:-1])
    for rank, rows in list(enumerate(rows_of))[1:]:
        rest = messages[rank]
        for part in output.parts(outputs, rank):
            wanted_N = part[rows][is_wanted_Bn[rows]]
            filled = rest[: wanted_N.nbytes].view(wanted_N.dtype)
            part[rows][is_wanted_Bn[rows]] = filled.reshape(wanted_N.shape)
            rest = rest[wanted_N.nbytes :]
        is_bad_B[rows] |= rest.view(bool)
    outputs[-1][is_bad_B] = np.nan


def _bytes(array: np.ndarray) -> np.ndarray:
    """Return the bytes of an array, flat."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
