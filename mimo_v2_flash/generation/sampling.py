"""Sampling on the host: one token per row of logits, with an independent random stream per row.

The logits processors are those of transformers 5.23 (`generation/logits_process.py`), in its order
(`generation/utils.py`, `_get_logits_processor`): repetition penalty, temperature, top-k, top-p,
min-p. Among equal logits the lowest id wins, where transformers keeps all ties of top-k. A is the
number of tokens that remain after filtering.

Source: penalty: CTRL, arXiv:1909.05858, section 4.1, negative logits as in transformers; top-p:
arXiv:1904.09751; min-p: arXiv:2407.01082. MiMo: V = 152,576; its model card advises top-p 0.95
with temperature 0.8 (mathematics, writing, web) or 0.3 (agents, tools).
"""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .seeds import check_seed

__all__ = ["Sampler", "SamplingParams", "check_logits", "distribution"]

ALLOWED: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "temperature": (numbers.Real, lambda t: 0 <= t < math.inf, "finite and >= 0 (0: greedy)"),
    "top_k": (numbers.Real, lambda k: k >= -1 and k % 1 == 0, "an integer >= -1 (-1, 0: off)"),
    "top_p": (numbers.Real, lambda p: 0 <= p <= 1, "a number in [0, 1] (1: off)"),
    "min_p": (numbers.Real, lambda p: 0 <= p <= 1, "a number in [0, 1] (0: off)"),
    "repetition_penalty": (numbers.Real, lambda r: 0 < r < math.inf, "finite and > 0 (1: off)"),
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters; the default is greedy decoding.

    Attributes
    ----------
    temperature
        Divisor of the logits; 0 takes the largest one and draws no random number.
    top_k
        Keep the k largest logits; 0 and -1 keep all.
    top_p
        Keep the fewest tokens whose probabilities sum to at least this, and one if it is 0; 1 keeps
        all.
    min_p
        Keep the tokens of at least this fraction of the largest probability; 0 keeps all, 1 the
        best.
    repetition_penalty
        Divide positive and multiply negative logits of the tokens in the row's history, each once
        however often it occurs; above 1 discourages them, 1 is off.

    Raises
    ------
    ValueError
        If a value is not allowed; the message names field, value and what is allowed.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Check every field; NaN fails every comparison, and a bool does not count as a number."""
        for name, (kind, allows, allowed) in ALLOWED.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not allows(value):
                raise ValueError(f"{name} is {value!r}, allowed is {allowed}")


def distribution(
    logits_V: np.ndarray, settings: SamplingParams, history: Sequence[int] = ()
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (token_A, probability_A > 0): best first if top-k or top-p filters, else by id.

    Parameters
    ----------
    logits_V
        Logits of one row, float32; -inf marks an impossible token.
    settings
        Sampling parameters; greedy keeps one token, with probability 1.
    history
        The row's tokens so far, prompt and generated; only the repetition penalty reads it.

    Raises
    ------
    ValueError
        If a logit is NaN or +inf, all are -inf, or the history holds an id outside [0, V).
    """
    score_V = _penalise(logits_V, history, settings.repetition_penalty)
    check_logits(score_V, "the row")
    if settings.temperature == 0:
        return np.argmax(score_V, keepdims=True), np.ones(1)
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, rightly
        score_V = (score_V - np.max(score_V)) / settings.temperature
    token_A = _top_k(score_V, int(settings.top_k) if settings.top_k > 0 else score_V.size)
    weight_A = np.exp(score_V[token_A])
    if settings.top_p < 1:
        index_A = _top_p(weight_A, settings.top_p)
        token_A, weight_A = token_A[index_A], weight_A[index_A]
    kept_A = (weight_A > 0) & (weight_A >= settings.min_p)  # the best weight is exp(0) = 1
    return token_A[kept_A], weight_A[kept_A] / np.sum(weight_A[kept_A])


class Sampler:
    """A token sampler that takes one random number per token, from the stream of the token's row.

    A stream depends only on the seed (an integer >= 0, else ValueError) and the row's number. A
    row's tokens are therefore the same alone and in a batch, whichever other rows have stopped.
    Speculative decoding keeps this if a row draws position by position up to the first draft token
    that is rejected.
    """

    def __init__(self, settings: SamplingParams, seed: int) -> None:
        self.settings, self._seed = settings, check_seed(seed)
        self._stream_of_row: dict[int, np.random.Generator] = {}

    def draw(
        self, logits_NV: np.ndarray, rows: Sequence[int], histories: Sequence[Sequence[int]]
    ) -> NDArray[np.int32]:
        """Return token_N, int32: the next token of every row.

        Parameters
        ----------
        logits_NV
            Logits, float32. Without a repetition penalty they may be the k best from the kernel
            `top_k`: the result is then an index into them, of the token that all logits would give
            with this top_k.
        rows
            N integers >= 0: the random stream of each row.
        histories
            Tokens of each row so far, prompt and generated; only a repetition penalty reads them.

        Raises
        ------
        ValueError
            If the counts disagree or `distribution` refuses a row. Logits without a finite maximum
            are refused, by row, before any row draws.
        """
        if np.ndim(logits_NV) != 2 or not len(logits_NV) == len(rows) == len(histories):
            counts = f"{len(rows)} rows and {len(histories)} histories"
            raise ValueError(f"logits_NV is {np.shape(logits_NV)} for {counts}")
        for row, logits_V in zip(rows, logits_NV, strict=True):
            check_logits(logits_V, f"row {row}")
        return np.array([*map(self._draw_one, rows, logits_NV, histories)], np.int32)

    def _draw_one(self, row: int, logits_V: np.ndarray, history: Sequence[int]) -> int:
        token_A, probability_A = distribution(logits_V, self.settings, history)
        if self.settings.temperature == 0:
            return int(token_A[0])
        cumulative_A = np.cumsum(probability_A)
        threshold = self._stream(row).random() * cumulative_A[-1]
        return int(token_A[np.searchsorted(cumulative_A, threshold)])

    def _stream(self, row: int) -> np.random.Generator:
        if row not in self._stream_of_row:
            # default_rng([seed, row]) would give seed 5 + 2**32, row 0 the stream of seed 5, row 1
            sequence = np.random.SeedSequence(self._seed, spawn_key=(row,))
            self._stream_of_row[row] = np.random.Generator(np.random.PCG64(sequence))
        return self._stream_of_row[row]


def check_logits(logits_V: np.ndarray, name: str) -> None:
    """Raise ValueError unless the largest logit is finite; it may be passed by itself."""
    best = float(np.max(logits_V))  # NaN if any logit is NaN
    if not math.isfinite(best):
        content = {math.inf: "+inf", -math.inf: "nothing but -inf"}.get(best, "NaN")
        raise ValueError(f"the logits of {name} hold {content}")


def _penalise(logits_V: np.ndarray, history: Sequence[int], penalty: float) -> NDArray[np.float64]:
    score_V = np.array(logits_V, np.float64)
    if penalty == 1:
        return score_V
    seen = np.asarray(history, np.int64)
    if seen.size and not 0 <= np.min(seen) <= np.max(seen) < score_V.size:
        raise ValueError(f"the history holds an id outside [0, {score_V.size})")
    old = score_V[seen]  # all are read before any is written: a repeated id counts once
    with np.errstate(over="ignore"):  # an absurd penalty may give inf: refused afterwards
        score_V[seen] = np.where(old < 0, old * penalty, old / penalty)
    return score_V


def _top_k(score_V: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    if k >= score_V.size:
        return np.arange(score_V.size)
    last = np.partition(score_V, -k)[-k]
    above = np.flatnonzero(score_V > last)
    token_A = np.concatenate([above, np.flatnonzero(score_V == last)[: k - above.size]])
    return token_A[np.argsort(-score_V[token_A], kind="stable")]


def _top_p(weight_A: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    total = np.sum(weight_A)
    # Weights below (1 - top_p) * total / A add up to less than (1 - top_p) * total, so top-p drops
    # all of them; few of 152,576 tokens are left to sort.
    likely = np.flatnonzero(weight_A * weight_A.size >= (1 - top_p) * total)
    order = likely[np.argsort(-weight_A[likely], kind="stable")]
    return order[: np.searchsorted(np.cumsum(weight_A[order]), top_p * total) + 1]
