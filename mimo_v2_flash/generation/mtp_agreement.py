"""Agreement of MTP heads with the model on a text: how often a head's best token is the model's.

The text is split into the windows of `likelihood`. The model reads each, in chunks, and so does
each MTP head after it, with the text's own tokens in place of drafts: nothing is generated. The
model's logits give the text's likelihood too.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.engine.logprobs import token_logprobs
from mimo_v2_flash.inputs import as_count, as_draft_tokens, as_tokens
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.head import as_greedy

from .likelihood import check_window

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["Agreement", "mtp_agreement"]

TOKENS = 256  # whose logits are in memory together


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
) -> tuple[float, list[Agreement]]:
    """Return the bits of a text, and how often each MTP head's best token is the model's own.

    Head k predicts nothing after the first k + 1 tokens of a window: it reads the hidden state of
    an earlier one. The bits are those of `total_bits`. All ranks get the same answer.

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
    rows = 1 if model.pads_steps else min(windows, max(1, min(model.max_step, TOKENS) // chunk))
    cache = model.new_cache(rows, min(length, len(text_T)), mtp_heads=heads)
    counts_K2, nats = np.zeros((heads, 2), np.int64), 0.0
    for first in range(0, len(text_T), rows * length):
        target_BT, token_BT, position_BT = _windows(
            text_T[first : first + rows * length], rows, length, begin
        )
        for start in range(0, token_BT.shape[1], chunk):
            columns = slice(start, start + chunk)
            step = token_BT[:, columns], position_BT[:, columns]
            logits_BTV = model.step(*step, cache)
            is_token_BT = step[1] >= 0
            targets, logits = target_BT[:, columns][is_token_BT], logits_BTV[is_token_BT]
            nats -= sum(each.logprob for each in token_logprobs(logits, targets, [0] * len(logits)))
            counts_K2 += _compare(model, *step, np.argmax(logits_BTV, axis=2), cache)
            advance(len(logits))
    counts = np.frombuffer(model.group.broadcast(counts_K2.tobytes()), np.int64)
    return nats / math.log(2), [Agreement(*pair) for pair in counts.reshape(-1, 2).tolist()]


def _windows(
    text_T: np.ndarray, rows: int, length: int, begin: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (target_BT, token_BT, position_BT) of up to `rows` windows.

    Positions of padding are -1.
    """
    shape = rows, min(length, len(text_T))
    target_BT, token_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    position_BT = np.full(shape, -1, np.int32)
    for row, start in enumerate(range(0, len(text_T), length)):
        window_T = text_T[start : start + length]
        target_BT[row, : len(window_T)] = window_T
        token_BT[row, : len(window_T)] = [begin, *window_T[:-1]]
        position_BT[row, : len(window_T)] = np.arange(len(window_T))
    return target_BT, token_BT, position_BT


def _compare(
    model: "MiMoV2FlashModel",
    token_BT: np.ndarray,
    position_BT: np.ndarray,
    best_BT: np.ndarray,
    cache: "HybridCache",
) -> np.ndarray:
    """Return (agreed, predicted) of each head in a part of windows: a collective call.

    `best_BT` are the model's best tokens. The numbers are rank 0's, which alone has the heads'.
    """
    start_B, count_B = np.maximum(position_BT[:, 0], 0), np.sum(position_BT >= 0, axis=1)
    runner, counts = model.runner, []
    for head in range(runner.mtp.heads(cache)):
        is_read_BT = position_BT > head
        index_BT = np.where(is_read_BT, np.arange(token_BT.shape[1]), -1)
        step = Step(token_BT, start_B, count_B, index_BT)
        draft_BT, _ = as_greedy(runner.draft(head, runner.greedy_tokens, step, cache))
        counts.append((np.sum(is_read_BT & (draft_BT == best_BT)), np.sum(is_read_BT)))
    return np.array(counts, np.int64)
