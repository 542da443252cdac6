"""Agreement of MTP heads with the model on a text: how often a head's best token is the model's.

The text is split into the windows of `likelihood`. The model reads each, in chunks, and so does
each MTP head after it, with the text's own tokens in place of drafts: nothing is generated.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.inputs import as_count, as_draft_tokens, as_tokens
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.head import as_greedy

from .likelihood import check_window

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["Agreement", "mtp_agreement"]


class Agreement(NamedTuple):
    """How many tokens an MTP head predicted as the model did, and how many it predicted."""

    agreed: int
    predicted: int


@single_threaded_blas
def mtp_agreement(
    model: "MiMoV2FlashModel",
    token_T: Sequence[int],
    *,
    heads: int,
    length: int,
    begin: int,
    advance: Callable[[int], object] = int,
) -> list[Agreement]:
    """Return how often the best token of each MTP head is the model's own, on a text.

    Head k predicts nothing after the first k + 1 tokens of a window: it reads the hidden state of
    an earlier one. All ranks get the same answer.

    Parameters
    ----------
    model
        The model, which has MTP heads.
    token_T
        Token ids of the text.
    heads
        How many of the heads.
    length
        Length of a window, in tokens.
    begin
        Id of the token that precedes each window.
    advance
        Progress callback, called after each part of windows with its number of tokens.

    Raises
    ------
    ValueError
        If there are fewer heads or no tokens, `length` is not in 1..max_length, an id is outside
        the vocabulary, or a window gets NaN or infinity.
    """
    as_count("heads", as_draft_tokens(heads, model.mtp_heads))
    check_window(length, model)
    text_T = as_tokens([token_T], model.config.vocab_size)[0]
    chunk = min(length, len(text_T), model.config.mtp_layer.attention.window - 2)
    windows = -(-len(text_T) // length)
    rows = 1 if model.pads_steps else min(windows, max(1, model.max_step // chunk))
    cache = model.new_cache(rows, min(length, len(text_T)), mtp_heads=heads)
    counts_K2 = np.zeros((heads, 2), np.int64)
    for first in range(0, len(text_T), rows * length):
        token_BT, position_BT = _windows(text_T[first : first + rows * length], rows, length, begin)
        for start in range(0, token_BT.shape[1], chunk):
            columns = slice(start, start + chunk)
            counts_K2 += _compare(model, token_BT[:, columns], position_BT[:, columns], cache)
            advance(int(np.sum(position_BT[:, columns] >= 0)))
    counts = np.frombuffer(model.group.broadcast(counts_K2.tobytes()), np.int64)
    return [Agreement(*pair) for pair in counts.reshape(-1, 2).tolist()]


def _windows(
    text_T: np.ndarray, rows: int, length: int, begin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (token_BT, position_BT) of up to `rows` windows; positions of padding are -1."""
    width = min(length, len(text_T))
    token_BT, position_BT = np.zeros((rows, width), np.int32), np.full((rows, width), -1, np.int32)
    for row, start in enumerate(range(0, len(text_T), length)):
        window_T = text_T[start : start + length]
        token_BT[row, : len(window_T)] = [begin, *window_T[:-1]]
        position_BT[row, : len(window_T)] = np.arange(len(window_T))
    return token_BT, position_BT


def _compare(
    model: "MiMoV2FlashModel", token_BT: np.ndarray, position_BT: np.ndarray, cache: "HybridCache"
) -> np.ndarray:
    """Return (agreed, predicted) of each head in a part of windows: a collective call.

    The numbers are rank 0's, which alone has the heads' tokens.
    """
    best_BT, _ = model.greedy(token_BT, position_BT, cache)
    start_B, count_B = np.maximum(position_BT[:, 0], 0), np.sum(position_BT >= 0, axis=1)
    runner, counts = model.runner, []
    for head in range(runner.mtp.heads(cache)):
        is_read_BT = position_BT > head
        index_BT = np.where(is_read_BT, np.arange(token_BT.shape[1]), -1)
        step = Step(token_BT, start_B, count_B, index_BT)
        draft_BT, _ = as_greedy(runner.draft(head, runner.greedy_tokens, step, cache))
        counts.append((np.sum(is_read_BT & (draft_BT == best_BT)), np.sum(is_read_BT)))
    return np.array(counts, np.int64)
