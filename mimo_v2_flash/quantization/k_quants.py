"""ggml's K-quants: blocks of 256 columns, whose groups have scales of few bits under one float16.

To quantize, each group's scale is searched for among some candidates, then scales are rounded, and
codes are those of the rounded scales. The search is most of the time, so it has a compiled form.

Source: ggml, `ggml-quants.c`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mimo_v2_flash.cpu.loading import compiled_module

from .ggml_blocks import GgmlBlocks

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COLUMNS", "KQuant", "largest_first", "nearest", "quotient", "sum_positions"]

COLUMNS = 256
ZERO = np.float32(0)


@dataclass(frozen=True, eq=False)
class KQuant(GgmlBlocks):
    """A weight [..., O, I] in blocks of 256 columns with groups of `group`."""

    block = COLUMNS
    group: ClassVar[int]

    @staticmethod
    @abstractmethod
    def search(x_PG: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what the columns P of each group are quantized with: a scale, or also a minimum.

        Sums are over P in its order, so that the compiled search has the same bits.
        """

    @staticmethod
    @abstractmethod
    def pack(w_NC: np.ndarray, *numbers_NG: np.ndarray) -> np.ndarray:
        """Return the bytes of blocks whose groups have these numbers of `search`."""

    @classmethod
    def encode_blocks(cls, w_NC: np.ndarray) -> np.ndarray:
        """Return the bytes of float32 values [N, 256]."""
        numbers = cls.search(np.ascontiguousarray(w_NC.reshape(-1, cls.group).T))
        return cls._packed(w_NC, numbers)

    @classmethod
    def encode_fast(cls, w_NC: np.ndarray) -> np.ndarray:
        """Return what `encode_blocks` does, to the bit, with a compiled search."""
        loops = compiled_module("k_search")
        if loops is None:
            return cls.encode_blocks(w_NC)
        return cls._packed(w_NC, loops.SEARCHES[cls.format](w_NC.reshape(-1, cls.group)))

    @classmethod
    def _packed(cls, w_NC: np.ndarray, numbers: Sequence[np.ndarray]) -> np.ndarray:
        return cls.pack(w_NC, *(number.reshape(len(w_NC), -1) for number in numbers))


def nearest(values: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return the nearest integers, halves to even, between two bounds, as float32.

    Parameters
    ----------
    values : array
        What is rounded.
    low, high : int
        The bounds, which are allowed themselves.
    """
    return np.clip(np.rint(values), np.float32(low), np.float32(high))


def sum_positions(values_PG: np.ndarray) -> np.ndarray:
    """Return the sum over the first axis, one after another."""
    total_G = np.zeros_like(values_PG[0])
    for values_G in values_PG:
        total_G += values_G
    return total_G


def largest_first(values_PG: np.ndarray) -> np.ndarray:
    """Return along the first axis the first value of the largest magnitude, with its sign."""
    index_1G = np.argmax(np.abs(values_PG), axis=0)[None]
    return np.take_along_axis(values_PG, index_1G, axis=0)[0]


def quotient(dividend: np.ndarray | np.float32, divisor: np.ndarray) -> np.ndarray:
    """Return a quotient of float32, and zero where the divisor is zero."""
    is_zero = divisor == 0
    return np.where(is_zero, ZERO, dividend / np.where(is_zero, np.float32(1), divisor))
