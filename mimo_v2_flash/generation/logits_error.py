"""The error of a model's logits on a text against a reference: of a compute type, against float32.

error = logits_error(model, reference, token_T, length=1024, begin=0)
error.kl_nats, error.same_top1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mimo_v2_flash.inputs import as_tokens

from .likelihood import CHUNK, check_window

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["ErrorSums", "LogitsError", "logits_error"]


class LogitsError(NamedTuple):
    """How far logits are from a reference's, and what both say of a text.

    Attributes
    ----------
    largest_of_range
        The largest difference of a logit, relative to the range of the reference's.
    rms_of_std
        The root mean square of the differences, relative to the reference's standard deviation.
    kl_nats
        Mean Kullback-Leibler divergence of the model's distribution from the reference's.
    same_top1
        Share of the tokens whose best next token is the same.
    bits, reference_bits
        Bits of the text under the model, and under the reference.
    """

    largest_of_range: float
    rms_of_std: float
    kl_nats: float
    same_top1: float
    bits: float
    reference_bits: float


class ErrorSums:
    """Sums over the tokens of a text, from which its `LogitsError` follows."""

    def __init__(self) -> None:
        self._tokens = self._logits = self._same = 0
        self._largest, self._low, self._high = 0.0, math.inf, -math.inf
        self._squared = self._sum = self._sum_squared = 0.0
        self._kl = self._nats = self._reference_nats = 0.0

    def add(self, logits_TV: np.ndarray, reference_TV: np.ndarray, target_T: np.ndarray) -> None:
        """Add some tokens: the logits of both for each, and the tokens that they predict.

        Parameters
        ----------
        logits_TV, reference_TV : array, float32
            Logits of each token, and what they are compared with.
        target_T : array of int
            Token that each predicts.
        """
        wide_TV, reference_TV = logits_TV.astype(np.float64), reference_TV.astype(np.float64)
        difference_TV = wide_TV - reference_TV
        self._tokens, self._logits = self._tokens + len(target_T), self._logits + wide_TV.size
        self._largest = max(self._largest, float(np.abs(difference_TV).max()))
        self._low = min(self._low, float(reference_TV.min()))
        self._high = max(self._high, float(reference_TV.max()))
        self._squared += float(np.sum(np.square(difference_TV)))
        self._sum += float(np.sum(reference_TV))
        self._sum_squared += float(np.sum(np.square(reference_TV)))
        best_T, reference_best_T = wide_TV.argmax(axis=1), reference_TV.argmax(axis=1)
        self._same += int(np.count_nonzero(best_T == reference_best_T))
        score_TV, reference_TV = _log_softmax(wide_TV), _log_softmax(reference_TV)
        self._kl += float(np.sum(np.exp(reference_TV) * (reference_TV - score_TV)))
        row_T = np.arange(len(target_T))
        self._nats -= float(np.sum(score_TV[row_T, target_T]))
        self._reference_nats -= float(np.sum(reference_TV[row_T, target_T]))

    def error(self) -> LogitsError:
        """Return the error of all tokens so far."""
        mean = self._sum / self._logits
        variance = self._sum_squared / self._logits - mean**2
        return LogitsError(
            self._largest / (self._high - self._low),
            math.sqrt(self._squared / self._logits / variance),
            self._kl / self._tokens,
            self._same / self._tokens,
            self._nats / math.log(2),
            self._reference_nats / math.log(2),
        )


def logits_error(
    model: MiMoV2FlashModel,
    reference: MiMoV2FlashModel,
    token_T: Sequence[int],
    *,
    length: int,
    begin: int,
    advance: Callable[[int], object] = int,
) -> LogitsError:
    """Return the error of a model's logits against a reference's on a text, as of `total_bits`.

    Parameters
    ----------
    model, reference
        Models of one vocabulary. On several ranks all of them call it.
    token_T, length, begin, advance
        As for `likelihood.total_bits`.

    Raises
    ------
    ValueError
        As of `total_bits`.
    """
    check_window(length, model)
    sums, text_T = ErrorSums(), as_tokens([token_T], model.config.vocab_size)[0]
    for start in range(0, len(text_T), length):
        window_T = text_T[start : start + length]
        both = (_logits(one, window_T, begin) for one in (model, reference))
        done = 0
        for logits_TV, reference_TV in zip(*both, strict=True):
            target_T = window_T[done : done + len(logits_TV)]
            sums.add(logits_TV, reference_TV, target_T)
            advance(len(target_T))
            done += len(target_T)
    return sums.error()


def _logits(model: MiMoV2FlashModel, window_T: np.ndarray, begin: int) -> Iterator[np.ndarray]:
    """Yield the logits that predict the tokens of a window, of some of them at a time."""
    input_T = np.concatenate([[begin], window_T[:-1]])
    cache = model.new_cache(1, len(input_T))
    for start in range(0, len(input_T), CHUNK):
        token_T = input_T[start : start + CHUNK]
        position_T = np.arange(start, start + len(token_T))
        yield model.step(token_T[None], position_T[None], cache)[0]


def _log_softmax(score_TV: np.ndarray) -> np.ndarray:
    score_TV = score_TV - np.max(score_TV, axis=1, keepdims=True)
    return score_TV - np.log(np.sum(np.exp(score_TV), axis=1, keepdims=True))
