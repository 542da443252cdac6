"""Partial rotary position embedding (RoPE): only the first 2R channels of a head are rotated.

Channel r is paired with channel r + R (half rotation), not with its neighbour.

Source: RoFormer, arXiv:2104.09864, section 3.4.2; transformers `models/mimo_v2_flash`
(`apply_rotary_pos_emb`). MiMo: 64 of Q = 192 channels; theta 5,000,000 in full layers and
10,000 in sliding ones.
"""

import numpy as np

from .axes import checked

__all__ = ["rope_partial", "rope_table"]


def rope_table(*, length: int, rotary_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (cos_LR, sin_LR) of the angles `position x theta^(-2r / rotary_dim)`, in radians.

    Computed once, on the host, in float64 and stored in float32: a float32 angle has an error of
    0.005 radians at position 100,000.

    Parameters
    ----------
    length : int
        Positions of the table, from 0 on.
    rotary_dim : int
        Channels of a head that are rotated.
    theta : float
        Base of the frequencies.

    Raises
    ------
    ValueError
        If `rotary_dim` is not positive and even, `length` negative or `theta` not positive.
    """
    if rotary_dim <= 0 or rotary_dim % 2:
        raise ValueError(f"rope_table: rotary_dim must be positive and even, got {rotary_dim}")
    if length < 0 or not theta > 0:
        raise ValueError(f"rope_table: got length {length} and theta {theta}, expected positive")
    frequency_R = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    angle_LR = np.outer(np.arange(length), frequency_R)
    return np.cos(angle_LR).astype(np.float32), np.sin(angle_LR).astype(np.float32)


@checked
def rope_partial(x_NHQ, position_N, cos_LR, sin_LR):
    """Return `x_NHQ` with channel pairs (r, r + R) rotated by the angle of the token's position.

        y[r] = x[r] cos - x[r + R] sin        y[r + R] = x[r + R] cos + x[r] sin

    Padding (position -1) is rotated as position 0 is. Queries and keys take a call each.

    Parameters
    ----------
    x_NHQ : array, float32 or bfloat16
        Queries or keys.
    position_N : array of int32
        Position of each token; -1 is padding.
    cos_LR, sin_LR : array, float32
        Tables of `rope_table`.

    Raises
    ------
    ValueError
        If a head is narrower than the 2R rotated channels.
    """
    R, Q = cos_LR.shape[-1], x_NHQ.shape[-1]
    if Q < 2 * R:
        raise ValueError(f"rope_partial: x_NHQ has width {Q}, expected at least 2R = {2 * R}")
    row_N = np.maximum(position_N, 0)
    cos_N1R = np.expand_dims(np.take(cos_LR, row_N, axis=0), 1)
    sin_N1R = np.expand_dims(np.take(sin_LR, row_N, axis=0), 1)
    low_NHR = x_NHQ[..., :R].astype(np.float32)
    high_NHR = x_NHQ[..., R : 2 * R].astype(np.float32)
    rotated_low = (low_NHR * cos_N1R - high_NHR * sin_N1R).astype(x_NHQ.dtype)
    rotated_high = (high_NHR * cos_N1R + low_NHR * sin_N1R).astype(x_NHQ.dtype)
    return np.concatenate([rotated_low, rotated_high, x_NHQ[..., 2 * R :]], axis=-1)
