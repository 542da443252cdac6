"""Negative log-likelihood of a text under a model, in bits.

The text is split into consecutive windows. The model sees each window by itself, after the
end-of-text token, and predicts every token of the text once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mimo_v2_flash.inputs import as_tokens

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["total_bits", "windows"]

CHUNK = 256  # tokens whose logits are in memory at the same time


def windows(
    token_T: Sequence[int], *, length: int, begin: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (input_T, target_T) of consecutive windows, int32, of `length` tokens at most.

    The input is the target shifted by one: the token `begin`, then all targets but the last. The
    last window may be shorter.
    """
    for start in range(0, len(token_T), length):
        target_T = np.array(token_T[start : start + length], np.int32)
        yield np.concatenate([np.array([begin], np.int32), target_T[:-1]]), target_T


def total_bits(
    model: MiMoV2FlashModel,
    token_T: Sequence[int],
    *,
    length: int,
    begin: int,
    advance: Callable[[int], object] = int,
) -> float:
    """Return the bits of a text's tokens under `model`: the sum of -log2 of their probabilities.

    Parameters
    ----------
    model
        The model that predicts the text.
    token_T
        Token ids of the text.
    length
        Length of a window, in tokens.
    begin
        Id of the token that precedes each window.
    advance
        Progress callback, called after each chunk with its number of tokens.

    Raises
    ------
    ValueError
        If there are no tokens, `length` is not in 1..max_length, or an id is outside
        the vocabulary.
    """
    context = model.max_length
    if not 1 <= length <= context:
        raise ValueError(f"length is {length}, allowed is 1..{context}")
    (token_T,) = as_tokens([token_T], model.config.vocab_size)
    cache, bits = model.new_cache(1, min(length, len(token_T))), 0.0
    for input_T, target_T in windows(token_T, length=length, begin=begin):
        for start in range(0, len(input_T), CHUNK):
            chunk = slice(start, start + CHUNK)
            position_T = np.arange(len(input_T))[chunk]
            logits_TV = model.step([input_T[chunk]], [position_T], cache)[0]
            bits += _bits(logits_TV.astype(np.float64), target_T[chunk])
            advance(len(position_T))
    return bits


def _bits(logits_TV: np.ndarray, target_T: np.ndarray) -> float:
    logits_TV -= np.max(logits_TV, axis=1, keepdims=True)
    target_logit_T = np.take_along_axis(logits_TV, target_T[:, None], axis=1)[:, 0]
    return float(np.sum(np.log(np.sum(np.exp(logits_TV), axis=1)) - target_logit_T) / np.log(2))
