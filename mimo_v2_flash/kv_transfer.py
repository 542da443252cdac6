"""KV transfer: copies of tokens between rows of flat caches, and between rows and the host.

Programs take the rows as data, so that one gathers and one scatters any tokens of the layers of a
kind. They have a fixed number of rows; those beyond the tokens are the trash row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .kernels.kv_cache import KVCache, put_tokens, take_tokens

__all__ = ["TRANSFER_ROWS", "KVTransfer", "TokenKV"]

TRANSFER_ROWS = 32  # of a program: a block of the prefix store

TokenKV = tuple[tuple[np.ndarray, np.ndarray], ...]
"""The keys and values of some tokens, on the host, layer after layer."""


class KVTransfer(NamedTuple):
    """Copies tokens with the programs of a backend.

    Attributes
    ----------
    take, put
        The kernels `take_tokens` and `put_tokens`, compiled by the backend.
    rows
        Rows of a program; None where shapes may depend on the data.
    """

    take: Callable[..., Any] = take_tokens
    put: Callable[..., Any] = put_tokens
    rows: int | None = None

    def read(self, caches: tuple[KVCache, ...], row_N: np.ndarray) -> TokenKV:
        """Return the tokens in rows of the caches of layers, at most as many as a program has."""
        tokens = self.take(caches, self._padded(row_N, _trash(caches)))
        return tuple((np.asarray(k)[: len(row_N)], np.asarray(v)[: len(row_N)]) for k, v in tokens)

    def write(
        self,
        caches: tuple[KVCache, ...],
        tokens: TokenKV,
        position_N: np.ndarray,
        row_N: np.ndarray,
    ) -> None:
        """Write what `read` returned into rows of the same layers, as tokens at positions.

        Parameters
        ----------
        caches : tuple of KVCache
            Flat caches of the layers.
        tokens : TokenKV
            What `read` returned.
        position_N : array of int32
            Positions that the tokens have then.
        row_N : array of int32
            Row of each token.
        """
        tokens = tuple((self._padded(k, 0), self._padded(v, 0)) for k, v in tokens)
        self._put(caches, tokens, position_N, row_N)

    def empty(self, caches: tuple[KVCache, ...], row_N: np.ndarray) -> None:
        """Empty rows of the caches of layers."""
        for start in range(0, len(row_N), self.rows or len(row_N)):
            part_N = row_N[start : start + (self.rows or len(row_N))]
            zeros = tuple(
                (_zero_rows(cache.k_ZKQ, len(part_N)), _zero_rows(cache.v_ZKC, len(part_N)))
                for cache in caches
            )
            self.write(caches, zeros, np.full(len(part_N), -1), part_N)

    def copy(
        self,
        caches: tuple[KVCache, ...],
        source_N: np.ndarray,
        target_N: np.ndarray,
        position_N: np.ndarray,
    ) -> None:
        """Copy tokens to other rows, where they are at positions; none leaves the device.

        Parameters
        ----------
        caches : tuple of KVCache
            Flat caches of the layers.
        source_N, target_N : array of int32
            Row of each token, and the row that it is copied to.
        position_N : array of int32
            Positions that the copies have.
        """
        count = len(source_N)
        for start in range(0, count, self.rows or count or 1):
            part = slice(start, start + (self.rows or count))
            tokens = self.take(caches, self._padded(source_N[part], _trash(caches)))
            self._put(caches, tokens, position_N[part], target_N[part])

    def _put(
        self, caches: tuple[KVCache, ...], tokens: Any, position_N: np.ndarray, row_N: np.ndarray
    ) -> None:
        self.put(caches, tokens, self._padded(position_N, -1), self._padded(row_N, _trash(caches)))

    def _padded(self, x_N: np.ndarray, value: int) -> np.ndarray:
        """Return an array with as many rows as a program has; positions and rows as int32."""
        x_N = x_N.astype(np.int32) if x_N.ndim == 1 else x_N
        missing = (self.rows or len(x_N)) - len(x_N)
        if not missing:
            return x_N
        return np.concatenate([x_N, np.full((missing, *x_N.shape[1:]), value, x_N.dtype)])


def _zero_rows(part: Any, count: int) -> np.ndarray:
    return np.zeros((count, *part.shape[1:]), part.dtype)


def _trash(caches: tuple[KVCache, ...]) -> int:
    """Return the trash row of layers of a kind."""
    return int(caches[0].position_Z.shape[0]) - 1
