"""The tokens of one pass on this rank, flat, and the rectangles in which they attend."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.kernels.attention import KVSegment
from mimo_v2_flash.kernels.kv_cache import KVCache, prior_tokens, take_prior_tokens

__all__ = ["AttentionMetadata", "ForwardBatch", "SequenceRun", "Step"]


class Step(NamedTuple):
    """A step that was checked, of all rows: those of other ranks too.

    Attributes
    ----------
    token_BT
        Token ids; a row's real tokens come first.
    start_B, count_B
        Position of each row's first token, and how many real tokens it has.
    index_Bn
        The tokens, among a row's `token_BT`, whose outputs are wanted.
    """

    token_BT: np.ndarray
    start_B: np.ndarray
    count_B: np.ndarray
    index_Bn: np.ndarray


class SequenceRun(NamedTuple):
    """Neighbouring sequences of a cache, whose tokens attend in one call as a [B, T] rectangle.

    Attributes
    ----------
    first_row, rows
        The first sequence in the cache, and the number of sequences, B.
    tokens
        Tokens of each sequence, T.
    first_token
        The first token in the flat batch, where the rectangle's tokens lie side by side.
    token_BT
        Each token's index in the flat batch, -1 where a sequence is idle; None if they lie side
        by side.
    row_B
        The sequences in the cache as data, for a program; None if they are all that it holds.
    kv_length
        Cache slots of each sequence that are attended to; slots beyond are empty.
    """

    first_row: int
    rows: int
    tokens: int
    first_token: int = 0
    token_BT: Any = None
    row_B: Any = None
    kv_length: int = 0

    def gather(self, x_N: Any) -> Any:
        """Return the run's part of flat tokens [N, ...] as [B, T, ...]; idle cells hold any."""
        if self.token_BT is not None:
            return x_N[self.token_BT]
        end = self.first_token + self.rows * self.tokens
        is_whole = end - self.first_token == x_N.shape[0]  # a program slices nothing
        run_N = x_N if is_whole else x_N[self.first_token : end]
        return np.reshape(run_N, (self.rows, self.tokens, *x_N.shape[1:]))

    def positions(self, position_N: Any) -> Any:
        """Return `position_BT`, -1 in idle cells."""
        position_BT = self.gather(position_N)
        if self.token_BT is None:
            return position_BT
        return np.where(self.token_BT < 0, np.int32(-1), position_BT)

    def prior(self, cache: KVCache, slots: int) -> KVSegment:
        """Return the keys and values that the cache held before the pass."""
        if self.row_B is not None:
            return take_prior_tokens(cache, self.row_B, slots=slots, kv_length=self.kv_length)
        rows = range(self.first_row, self.first_row + self.rows)
        return prior_tokens(cache, slots=slots, rows=rows, kv_length=self.kv_length)

    def scatter(self, y_BT: Any, y_N: np.ndarray) -> None:
        """Write a rectangle's tokens to their places in the flat `y_N`."""
        if self.token_BT is None:
            self.gather(y_N)[...] = y_BT
        else:
            is_token_BT = self.token_BT >= 0
            y_N[self.token_BT[is_token_BT]] = y_BT[is_token_BT]


class AttentionMetadata(NamedTuple):
    """What a layer's attention knows of a pass; equal for all layers of one kind.

    Attributes
    ----------
    position_N, slot_mapping_N
        Each token's position, -1 for padding, and its row in the layer's flat KV cache.
    cos_LR, sin_LR
        The RoPE table.
    slots
        Slots per sequence in the layer's cache.
    runs
        The rectangles in which the tokens attend.
    """

    position_N: Any
    slot_mapping_N: Any
    cos_LR: Any
    sin_LR: Any
    slots: int
    runs: tuple[SequenceRun, ...]


@dataclass(frozen=True, eq=False)
class ForwardBatch:
    """The tokens of one pass on this rank, flat; static mode pads them to a rectangle.

    Attributes
    ----------
    first_B, start_B, count_B
        The pass, of all rows: the index of its first token in a row's step, that token's position,
        and how many of the row's tokens are in the pass.
    token_N, position_N
        Token ids and positions; -1 marks padding.
    row_N, end_N
        Each token's sequence in the cache, and the position after that sequence's last token.
    first_token_b
        Index of each local sequence's first token in the batch.
    runs
        The rectangles in which the tokens attend, with the KV length of full attention.
    longest
        The most tokens that any rank has in this pass.
    """

    first_B: np.ndarray
    start_B: np.ndarray
    count_B: np.ndarray
    token_N: np.ndarray
    position_N: np.ndarray
    row_N: np.ndarray
    end_N: np.ndarray
    first_token_b: np.ndarray
    runs: tuple[SequenceRun, ...]
    longest: int
