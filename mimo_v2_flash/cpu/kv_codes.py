"""Keys and values in 8 bits: a row of codes, which ends in its scale.

A token's key, or value, of one KV head has a scale, in bfloat16: its largest magnitude is the
largest code. The scale lies after the codes, in the same row, so that what copies, keeps and
overwrites rows of a cache does so with their scales. NaN and infinity are in the scale, and
poison their row; no code is NaN.

Source: INT8 with a scale per token and head, as in llama.cpp's and vLLM's caches; E4M3 of
arXiv:2209.05433. docs/decisions/0049 has the figures.
"""

from typing import Any

import ml_dtypes
import numpy as np

__all__ = [
    "CODES", "CODE_DTYPES", "SCALE", "channels", "decode", "encode", "is_finite", "row_width",
]  # fmt: skip

SCALE = np.dtype(ml_dtypes.bfloat16)
CODES = {"fp8": np.dtype(ml_dtypes.float8_e4m3fn), "int8": np.dtype(np.int8)}
"""The dtypes of codes, by the names of the caches that have them."""

CODE_DTYPES = frozenset(CODES.values())
LARGEST = {CODES["fp8"]: np.float32(448), CODES["int8"]: np.float32(127)}
SMALLEST = np.finfo(np.float32).smallest_normal


def row_width(width: int, dtype: Any) -> int:
    """Return the elements of a row in a cache of `dtype` that holds `width` numbers."""
    return width + SCALE.itemsize * (np.dtype(dtype) in CODE_DTYPES)


def channels(rows: Any) -> int:
    """Return how many numbers each row of a cache holds."""
    return int(rows.shape[-1]) - row_width(0, rows.dtype)


@np.errstate(invalid="ignore")  # NaN has no code, its row is in no use
def encode(x: Any, dtype: Any) -> Any:
    """Return numbers [..., Q] as the rows of a cache of `dtype`: codes and a scale, or floats.

    Rows whose scale would be subnormal are zeros.
    """
    if dtype not in CODE_DTYPES:
        return x if x.dtype == dtype else x.astype(dtype)
    x = x.astype(np.float32, copy=False)
    largest = np.max(np.abs(x), axis=-1, keepdims=True) / LARGEST[dtype]
    scale = np.where(largest < SMALLEST, np.float32(0), largest).astype(SCALE)  # 2^-8 below at most
    code = x / np.where(scale == 0, np.float32(1), scale.astype(np.float32))
    if dtype == np.int8:
        code = np.rint(code)
    rows = np.empty((*x.shape[:-1], row_width(x.shape[-1], dtype)), dtype)
    rows[..., : x.shape[-1]] = code
    rows[..., x.shape[-1] :] = scale.view(dtype)
    return rows


@np.errstate(invalid="ignore")
def decode(rows: Any) -> Any:
    """Return the numbers in the rows of a cache: codes times scales, as float32, or `rows`."""
    if rows.dtype not in CODE_DTYPES:
        return rows
    return rows[..., : channels(rows)].astype(np.float32) * _scales(rows)


def is_finite(rows: np.ndarray) -> np.ndarray:
    """Return which rows of a cache hold neither NaN nor infinity."""
    return np.isfinite(_scales(rows) if rows.dtype in CODE_DTYPES else rows).all(axis=-1)


def _scales(rows: np.ndarray) -> np.ndarray:
    stored = np.ascontiguousarray(rows[..., channels(rows) :])
    return stored.view(SCALE).astype(np.float32)
