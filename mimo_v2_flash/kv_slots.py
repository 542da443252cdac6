"""Slots of a flat KV cache: how many a sequence has, and which rows a step's tokens are written to.

All integer arithmetic of slots runs on the host.
"""

import numpy as np

__all__ = ["MAX_DRAFT_TOKENS", "slot_mapping", "slots_per_sequence"]

MAX_DRAFT_TOKENS = 3
"""The most draft tokens in a step of speculative decoding; as many can be rolled back after it."""


def slots_per_sequence(window: int, max_length: int) -> int:
    """Return a layer's slots per sequence: `max_length`, or a ring if that is shorter."""
    return min(max_length, window + MAX_DRAFT_TOKENS)


def slot_mapping(
    position_N: np.ndarray,
    row_N: np.ndarray,
    end_N: np.ndarray,
    *,
    slots: int,
    trash: int,
    capture_start: int | None = None,
) -> np.ndarray:
    """Return `slot_mapping_N`, int32: each token's row of a flat cache.

    A sequence's rows are its slots: position mod `slots`. Padding, and tokens that later ones of
    the same step would overwrite, go to the row `trash`, which is the last one. With a
    `capture_start` each of these tokens has a row from there on instead.

    Parameters
    ----------
    position_N, row_N
        Each token's position, -1 for padding, and its sequence in the flat cache.
    end_N
        The position after the last of the step's tokens in the same sequence.
    slots
        Slots of a sequence.
    trash, capture_start
        The trash row, and the first row of captured tokens, if there are any.
    """
    is_token_N = position_N >= 0
    is_kept_N = is_token_N & (position_N >= end_N - slots)
    lost_N = np.full(len(position_N), trash)
    if capture_start is not None:
        lost_N = np.where(is_token_N, capture_start + np.arange(len(position_N)), trash)
    return np.where(is_kept_N, row_N * slots + position_N % slots, lost_N).astype(np.int32)
