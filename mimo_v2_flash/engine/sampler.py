"""The choice of the next tokens from logits, for all rows of a step at once.

A filter is a threshold: every token whose scaled logit reaches it survives, so no order of sorting
decides. What is drawn is the argmax of scaled logits plus `GumbelNoise`. A is the number of tokens
that survive.

Source: penalties: CTRL, arXiv:1909.05858, section 4.1, negative logits as in transformers, and
OpenAI's API reference; top-p: arXiv:1904.09751; min-p: arXiv:2407.01082. The order is that of
transformers 5.23 (`generation/utils.py`, `_get_logits_processor`). MiMo: V = 152,576.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .noise import GumbelNoise
from .sampling_params import SamplingParams

__all__ = ["NO_TOKEN", "Draw", "Sampler"]

NO_TOKEN = -1

FIRST_CANDIDATES = 64  # largest logits that top-p sorts first; 16 times as many if too few


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What the choice of one row's next token depends on, beside its logits.

    Attributes
    ----------
    params
        The request's sampling parameters.
    seed, answer, position
        What addresses the row's noise: the request's seed, the index of the answer, and the
        position of the token that is chosen.
    prompt_tokens, new_tokens
        The row's tokens so far; only penalties read them.
    forbidden
        Token ids that may not be chosen: end tokens before `min_tokens`.
    mask_V
        Which tokens a constraint allows; None for all.
    """

    params: SamplingParams
    seed: int
    answer: int
    position: int
    prompt_tokens: Sequence[int] = ()
    new_tokens: Sequence[int] = ()
    forbidden: Sequence[int] = ()
    mask_V: np.ndarray | None = None


class Sampler:
    """A chooser of tokens; it keeps no state of any row.

    Parameters
    ----------
    suppressed
        Token ids that are never chosen.
    """

    def __init__(self, suppressed: Collection[int] = ()) -> None:
        self._noise, self._suppressed_A = GumbelNoise(), np.array(sorted(suppressed), np.int64)

    def __call__(self, logits_RV: np.ndarray, draws: Sequence[Draw]) -> np.ndarray:
        """Return token_R, int64: each row's next token, `NO_TOKEN` if all of them are forbidden.

        Parameters
        ----------
        logits_RV
            Logits, float32, of which no row holds NaN or +inf, or nothing but -inf.
        draws
            What each row's choice depends on.

        """
        score_RV = process_logits(logits_RV, draws)
        if len(self._suppressed_A):
            score_RV = np.array(score_RV) if score_RV is logits_RV else score_RV
            score_RV[:, self._suppressed_A] = -np.inf
        token_R = np.argmax(score_RV, axis=1)
        token_R[np.max(score_RV, axis=1) == -np.inf] = NO_TOKEN
        rows = [
            row
            for row, draw in enumerate(draws)
            if draw.params.temperature > 0 and token_R[row] != NO_TOKEN
        ]
        if not rows:
            return token_R
        sampled = [draws[row].params for row in rows]
        scaled_SV = scale(score_RV[rows], sampled)
        threshold_S = thresholds(scaled_SV, sampled)
        for row, scaled_V, threshold in zip(rows, scaled_SV, threshold_S, strict=True):
            token_A = np.flatnonzero(scaled_V >= threshold)
            draw = draws[row]
            noise_A = self._noise(draw.seed, draw.answer, draw.position, token_A)
            token_R[row] = token_A[np.argmax(scaled_V[token_A] + noise_A)]
        return token_R


def process_logits(logits_RV: np.ndarray, draws: Sequence[Draw]) -> np.ndarray:
    """Return the logits after biases, penalties and masks; -inf marks forbidden tokens."""
    changed = [row for row, draw in enumerate(draws) if not _keeps_logits(draw)]
    if not changed:
        return logits_RV
    score_RV = np.array(logits_RV, np.float32)
    for row in changed:
        draw, score_V = draws[row], score_RV[row]
        if draw.params.logit_bias:
            bias = draw.params.logit_bias
            score_V[list(bias)] += np.fromiter(bias.values(), np.float32)
        if draw.params.has_penalties:
            penalise(score_V, draw)
        score_V[list(draw.forbidden)] = -np.inf
        if draw.mask_V is not None:
            score_V[~draw.mask_V] = -np.inf
    return score_RV


def _keeps_logits(draw: Draw) -> bool:
    params = draw.params
    return not (
        params.logit_bias or params.has_penalties or len(draw.forbidden) or draw.mask_V is not None
    )


def penalise(score_V: np.ndarray, draw: Draw) -> None:
    """Apply a row's penalties to its logits, in place."""
    params = draw.params
    new_token_A, count_A = np.unique(np.asarray(draw.new_tokens, np.int64), return_counts=True)
    if params.repetition_penalty != 1:
        token_A = np.union1d(np.asarray(draw.prompt_tokens, np.int64), new_token_A)
        old_A, penalty = score_V[token_A], np.float32(params.repetition_penalty)
        score_V[token_A] = np.where(old_A < 0, old_A * penalty, old_A / penalty)
    score_V[new_token_A] -= (params.presence_penalty + params.frequency_penalty * count_A).astype(
        np.float32
    )


def scale(score_SV: np.ndarray, params: Sequence[SamplingParams]) -> np.ndarray:
    """Return logits less their row's largest one, divided by the temperature: float32, <= 0."""
    temperature_S1 = np.array([[each.temperature] for each in params], np.float32)
    score_SV = score_SV - np.max(score_SV, axis=1, keepdims=True)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        score_SV /= temperature_S1  # a tiny temperature sends all but the best to -inf, rightly
    return np.where(np.isnan(score_SV), np.float32(0), score_SV)  # 0 / 0: the best ones


def thresholds(scaled_SV: np.ndarray, params: Sequence[SamplingParams]) -> np.ndarray:
    """Return threshold_S: the least scaled logit that survives top-k, top-p and min-p.

    Only the largest logits are sorted: as many as top-k keeps, or enough for top-p.
    """
    rows, V = scaled_SV.shape
    k_S = np.array([min(int(each.top_k), V) if each.top_k > 0 else V for each in params])
    p_S = np.array([each.top_p for each in params], np.float64)
    with np.errstate(divide="ignore"):
        threshold_S = np.log(np.array([each.min_p for each in params], np.float64))
    threshold_S = np.maximum(threshold_S, np.finfo(np.float64).min)  # -inf never survives
    total_S = np.zeros(rows)  # of all weights, where top-p takes its part of them
    is_whole_S = (k_S == V) & (p_S < 1)
    total_S[is_whole_S] = np.sum(np.exp(scaled_SV[is_whole_S]), axis=1, dtype=np.float64)
    (open_J,) = np.nonzero((k_S < V) | (p_S < 1))
    candidates = max(FIRST_CANDIDATES, int(np.max(k_S, where=k_S < V, initial=1)))
    while len(open_J):
        candidates = min(V, candidates)
        largest_JC = np.partition(scaled_SV[open_J], V - candidates, axis=1)[:, V - candidates :]
        largest_JC = np.sort(largest_JC, axis=1)[:, ::-1]
        last_J, is_enough_J = _last(largest_JC, k_S[open_J], p_S[open_J], total_S[open_J])
        least_J = np.take_along_axis(largest_JC, last_J[:, None], axis=1)[:, 0]
        done_J = open_J[is_enough_J]
        threshold_S[done_J] = np.maximum(threshold_S[done_J], least_J[is_enough_J])
        open_J, candidates = open_J[~is_enough_J], candidates * 16
    return threshold_S


def _last(
    largest_JC: np.ndarray, k_J: np.ndarray, p_J: np.ndarray, total_J: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the last logit that top-k and top-p keep, and whether it is among C."""
    C = largest_JC.shape[1]
    weight_JC = np.exp(largest_JC).astype(np.float64)
    weight_JC[np.arange(C) >= k_J[:, None]] = 0
    needed_J = p_J * np.where(total_J > 0, total_J, np.sum(weight_JC, axis=1))
    is_short_JC = np.cumsum(weight_JC, axis=1) < needed_J[:, None]
    top_p_J = np.where(p_J < 1, np.count_nonzero(is_short_JC, axis=1), C)
    last_J = np.minimum(np.minimum(k_J, C) - 1, top_p_J)
    return np.minimum(last_J, C - 1), (k_J <= C) | (top_p_J < C)
