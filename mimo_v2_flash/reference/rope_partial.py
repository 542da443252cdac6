"""Reference partial rotary position embedding: multiplication by complex numbers.

Source: RoFormer, arXiv:2104.09864, section 3.4.2, with the pairs (r, r + R) of transformers
`models/mimo_v2_flash` (`rotate_half`).
"""

import cmath

import numpy as np

__all__ = ["rope_at", "rope_partial", "rope_table"]


def rope_table(*, length: int, rotary_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (cos_LR, sin_LR): real and imaginary part of `_rotation` for every position."""
    rotation_LR = np.array(
        [
            [_rotation(position, r, rotary_dim, theta) for r in range(rotary_dim // 2)]
            for position in range(length)
        ],
        dtype=np.complex128,
    ).reshape(length, rotary_dim // 2)
    return rotation_LR.real, rotation_LR.imag


def rope_partial(x_NHQ, position_N, cos_LR, sin_LR):
    """Return `y_NHQ`, from the table.

    y_r + i y_{r+R} = (x_r + i x_{r+R}) (cos + i sin)        padding is rotated as position 0
    """

    def rotation(position: int, r: int) -> complex:
        return complex(float(cos_LR[position, r]), float(sin_LR[position, r]))

    return _rotate(x_NHQ, position_N, cos_LR.shape[1], rotation)


def rope_at(x_NHQ, position_N, *, rotary_dim: int, theta: float):
    """Return `y_NHQ`, from the positions, without a table."""

    def rotation(position: int, r: int) -> complex:
        return _rotation(position, r, rotary_dim, theta)

    return _rotate(x_NHQ, position_N, rotary_dim // 2, rotation)


def _rotation(position: int, r: int, rotary_dim: int, theta: float) -> complex:
    """Return exp(i position theta^(-2r / rotary_dim))."""
    return cmath.exp(1j * position / theta ** (2 * r / rotary_dim))


def _rotate(x_NHQ, position_N, R: int, rotation):
    y_NHQ = x_NHQ.astype(np.float64)
    N, H, _ = x_NHQ.shape
    for n, h, r in np.ndindex(N, H, R):
        x = complex(float(x_NHQ[n, h, r]), float(x_NHQ[n, h, r + R]))
        y = x * rotation(max(int(position_N[n]), 0), r)
        y_NHQ[n, h, r], y_NHQ[n, h, r + R] = y.real, y.imag
    return y_NHQ
